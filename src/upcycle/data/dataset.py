"""Images ready to train on, as one value: whatever is dropped is dropped from all columns at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from upcycle.config import Config
from upcycle.data.augment import Augmentation
from upcycle.data.batches import Batches
from upcycle.data.frames import Cache, Stream
from upcycle.data.index import Index
from upcycle.data.listing import Unusable
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import Splits
from upcycle.device import Hardware
from upcycle.task import Task


@dataclass(frozen=True, eq=False)
class Dataset:
    """The images of an index, decoded, and their splits: position i is the same image in each.

    `frames[i]`: uint8 [H, W, 3] as `preprocessing` decodes image i; `splits`: empty before the images are split.
    """

    index: Index
    frames: Cache | Stream
    preprocessing: Preprocessing
    splits: Splits = field(default_factory=Splits.empty)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def task(self) -> Task:
        """What tells the classes apart."""
        return Task.of(self.index.classes)

    def without(self, reasons: Mapping[int, Unusable]) -> "Dataset":
        """The images at the keys of `reasons` moved to the index's quarantine; DataError when too few are left."""
        return replace(
            self,
            index=self.index.without(reasons),
            frames=self.frames.without(reasons),
            splits=self.splits.without(reasons),
        )

    def workers(self, machine: Hardware) -> int:
        """Threads that make batches ahead: those asked for; else decoding files keeps all of them busy."""
        decoding = isinstance(self.frames, Stream) and machine.workers is None
        return machine.threads if decoding else machine.feeders

    def batches(self, config: Config, machine: Hardware) -> Batches:
        """The training split's batches, augmented as a whole before they are divided."""
        return Batches(
            self.frames,
            self.index.labels,
            self.splits.train,
            preprocessing=self.preprocessing,
            batch_size=config.batch_size,
            augmentation=Augmentation.of(config.augment, mixup=config.mixup),
            seed=config.seed,
            task=self.task,
            device=machine.device,
            workers=self.workers(machine),
        )
