"""Lightning's `Trainer` on torchvision's ResNet-50, after its transfer learning guide, all layers trained.

guide: no loader workers, as torch's default is. best: channels_last, fused SGD, no worker either, for a GPU one a
core with page-locked copies and cuDNN's algorithms chosen by trial. --bf16 is its precision "bf16-mixed".
"""

import warnings

import common
import lightning
import torch
from torchvision import datasets, models, transforms

warnings.filterwarnings("ignore")
asked, clock = common.arguments(), common.Clock()
best = asked.setting == "best"
torch.set_num_threads(asked.threads)
steps = [transforms.RandomResizedCrop(asked.size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
steps.append(transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
images = datasets.ImageFolder(asked.data, transforms.Compose(steps))
layout = torch.channels_last if best else torch.contiguous_format


class Classifier(lightning.LightningModule):
    """The network, its loss and its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.model = models.resnet50(weights=None)
        common.load_backbone(self.model, asked.weights)
        self.model.fc = torch.nn.Linear(self.model.fc.in_features, len(images.classes))
        self.model = self.model.to(memory_format=layout)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """The loss of a batch."""
        inputs, labels = batch
        loss = torch.nn.functional.cross_entropy(self.model(inputs.to(memory_format=layout)), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """As the plain loop has it."""
        return torch.optim.SGD(self.parameters(), lr=0.001, momentum=0.9, fused=best or None)


class EpochClock(lightning.Callback):
    """Times each epoch."""

    def on_fit_start(self, *_: object) -> None:
        """Before the loader's workers are started, which the first epoch pays for."""
        clock.begin()

    def on_train_epoch_start(self, *_: object) -> None:
        """Before its first batch."""
        if clock.epochs:
            clock.begin()

    def on_train_epoch_end(self, *_: object) -> None:
        """After its last."""
        clock.end()


loader = torch.utils.data.DataLoader(
    images,
    asked.batch,
    shuffle=True,
    num_workers=(workers := common.workers(asked, 0)),
    persistent_workers=best and workers > 0,
    pin_memory=best and asked.device == "cuda",
)
trainer = lightning.Trainer(
    max_epochs=asked.epochs,
    accelerator="gpu" if asked.device == "cuda" else "cpu",
    devices=1,
    benchmark=best or None,
    precision="bf16-mixed" if asked.bf16 else "32-true",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[EpochClock()],
)
trainer.fit(Classifier(), loader)
loss = float(trainer.callback_metrics.get("loss", float("nan")))
common.report("Lightning", clock, len(images), ("lightning", "torch"), loss=loss)
