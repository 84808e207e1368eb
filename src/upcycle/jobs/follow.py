"""What a process does that does not decide: it holds rank 0's images and weights, and computes what rank 0 asks for.

Orders of rank 0, each a message with plain values and, behind it, tensors:

    data      the images, split as rank 0 has them, and the network; each says what it lacks
    outputs   logits or features of some images by weights that follow: each computes its share of batches
    train     a training state that follows: each is at the same update from then on
    update    one update, at a rate that is told: each adds the gradients of its part of the batch
    end       the run is over
"""

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from upcycle import device as machines
from upcycle.changes import MicroBatch
from upcycle.config import Config, build
from upcycle.data.augment import Augmentation
from upcycle.data.dataset import Batch, Dataset
from upcycle.data.frames import Stream
from upcycle.data.index import Index, check_exists
from upcycle.data.index_file import index_from_bytes, index_to_bytes
from upcycle.data.preprocessing import Preprocessing
from upcycle.data.splits import NAMES, Splits
from upcycle.errors import ConfigError, DataError, UpcycleError, shown
from upcycle.evaluation.forward import predict_logits
from upcycle.jobs.callables import Callables
from upcycle.jobs.finetune import class_loss, synchronize_statistics
from upcycle.jobs.prepare import decode, kept_photos, machine_of
from upcycle.jobs.signals import SIGNALS
from upcycle.model.network import ModelSpec, Network, create
from upcycle.planning import Phase
from upcycle.reporting.progress import Silent
from upcycle.rundir import read_value
from upcycle.schedules import Constant, Rate
from upcycle.training.loop import Setting, State, start, train_step
from upcycle.training.loss import CustomLoss
from upcycle.training.optim import freeze_parameters, load_state_tensors, set_training_mode
from upcycle.world import World


def share_data(world: World, data: Dataset, whole: Index, network: ModelSpec, config: Config) -> Dataset:
    """Rank 0's images for all processes; `whole` are those before the ones that cannot be decoded were left out.

    DataError or ConfigError where another process does not have them, or computes otherwise.
    """
    if world.alone:
        return data
    streamed = isinstance(data.frames, Stream)
    world.tell(
        "data",
        config=config.to_dict(),
        preprocessing=data.preprocessing.to_dict(),
        network=network.to_dict(),
        splits={name: data.splits.of(name).tolist() for name in NAMES},
        streamed=streamed,
    )
    for index in (whole, data.index):
        world.send(index_to_bytes(index))
    machine = machine_of(config)
    _compare(world, _facts(machine))
    _compare(world, _facts(machine))
    return replace(data, world=world)


def _facts(machine: machines.Hardware, problem: str = "") -> dict[str, object]:
    node = socket.gethostname()
    return {"node": node, "device": machine.device, "precision": machine.precision, "problem": problem}


def _compare(world: World, facts: Mapping[str, object]) -> None:
    """Tell all processes this one's facts; in rank 0, an error for one that cannot take part."""
    said = [json.loads(text) for text in world.reports(json.dumps(facts))]
    for rank, other in enumerate(said if not world.follows else ()):
        where = f"process {rank}, on {shown(other['node'])},"
        if other["problem"]:
            raise DataError(f"{where} {other['problem']}")
        for name in ("device", "precision"):
            if other[name] != facts[name]:
                raise ConfigError(
                    f"{where} computes with {name} {other[name]}, and process 0 with {facts[name]}: give --{name}"
                )


def follow(world: World, callables: Callables) -> Path:
    """Do what rank 0 asks for until the run is over; returns its directory, which may be on another node alone.

    LostError where rank 0 has gone.
    """
    follower: _Follower | None = None
    with _deaf(), machines.restored():
        while True:
            told = world.hear()
            match told["order"]:
                case "data":
                    follower = _Follower(world, told, callables)
                case "end":
                    return Path(told["run"])
                case order:
                    assert follower is not None
                    orders = {"outputs": follower.outputs, "train": follower.train, "update": follower.update}
                    orders[order](told)


class _Follower:
    """The images, the network and the training state of rank 0, as it last told them."""

    def __init__(self, world: World, told: Mapping[str, Any], callables: Callables) -> None:
        self.world, self.callables = world, callables
        self.config = build(dict(told["config"]))
        problem = ""
        try:
            self.machine = machine_of(self.config)
        except UpcycleError as error:
            self.machine, problem = machines.detect(device="cpu"), str(error)
        machines.apply(self.machine, self.config.seed)
        self.data = self._data(told, problem)
        spec = ModelSpec.from_dict(told["network"])
        self.model: Network = create(spec, self.machine, seed=self.config.seed).to(self.machine.device)
        synchronize_statistics(self.model, self.config, world)
        self.state: State | None = None
        self.setting: Setting | None = None
        self.training = False
        self.batches: Iterator[Batch] = iter(())
        self.next = (-1, -1)

    def _data(self, told: Mapping[str, Any], problem: str) -> Dataset:
        """Its images, unless there is a `problem`: the first process of a node decodes them, the others find them."""
        whole, used = (index_from_bytes(self.world.receive()) for _ in range(2))
        preprocessing = Preprocessing.from_dict(told["preprocessing"])
        data = Dataset(used, Stream(used, preprocessing.decoding, kept_photos(self.config)), preprocessing)
        for first in (True, False):
            try:
                if not problem and first == (self.world.place.local_rank == 0):
                    check_exists(whole.root)
                    data = data if told["streamed"] else self._decoded(whole, used, preprocessing)
            except (UpcycleError, OSError) as error:
                problem = str(error)
            _compare(self.world, _facts(self.machine, problem))
        columns = {name: np.asarray(told["splits"][name], np.int64) for name in NAMES}
        return replace(data, splits=Splits(**columns), world=self.world)

    def _decoded(self, whole: Index, used: Index, preprocessing: Preprocessing) -> Dataset:
        data = decode(whole, preprocessing, self.config, self.machine, Silent())
        if not np.array_equal(data.index.hashes, used.hashes):
            raise DataError(f"decodes {len(data.index):,} of {len(whole):,} images, and process 0 {len(used):,}")
        return data

    def _shape(self, told: Mapping[str, Any]) -> None:
        """Make the network one that takes the weights that follow."""
        self.model.read(told["stages"])
        self.model.views, self.model.temperature = told["views"], told["temperature"]
        self.training = False

    def outputs(self, told: Mapping[str, Any]) -> None:
        """Compute this process's share of what a network gives for some images."""
        self._shape(told)
        predict_logits(
            self.model,
            self.data.frames,
            np.asarray(told["positions"], np.int64),
            preprocessing=self.data.preprocessing,
            machine=self.machine,
            workers=self.data.workers(self.machine),
            output=told["output"],
            world=self.world,
        )

    def train(self, told: Mapping[str, Any]) -> None:
        """Take over the state that training goes on from."""
        model, config = self.model, self.config
        self._shape(told)
        freeze_parameters(model.body, told["frozen"])
        state = start(model, config, step=told["step"])
        state.average = {}  # rank 0 alone keeps it
        device = self.machine.device
        moments = {
            name: torch.empty(shape, dtype=getattr(torch, kind), device=where)
            for name, kind, shape, where in told["moments"]
        }
        self.world.sync([*model.state_dict().values(), *moments.values()])
        load_state_tensors(state.optimizer, state.names, moments)
        batches = replace(
            self.data.batches(config, self.machine),
            augmentation=read_value(Augmentation, told["augmentation"], "an augmentation"),
            augment=self.callables.augment,
            world=self.world,
        )
        task, custom = self.data.task, self.callables.loss
        self.state, self.next = state, (-1, -1)
        self.setting = Setting(
            config=config,
            phase=Phase(told["phase"], 1, 1, Constant(1.0), told["first_step"]),  # the rates are told one by one
            batches=batches,
            task=task,
            loss=CustomLoss(task, custom) if custom else class_loss(config, self.data, device=device),
            machine=self.machine,
            frozen=frozenset(told["frozen"]),
            changes=tuple(MicroBatch(step, images, "") for step, images in told["changes"]),
            world=self.world,
        )

    def update(self, told: Mapping[str, Any]) -> None:
        """Make one update with the others."""
        assert self.state is not None
        assert self.setting is not None
        if not self.training:
            set_training_mode(self.model.body, frozen=self.setting.frozen, bn=self.config.bn)
            self.training = True
        place = (told["epoch"], told["index"])
        if place != self.next:
            self.batches = self.setting.batches.epoch(*place)
        self.next = (place[0], place[1] + 1)
        self.state.step = told["step"]
        train_step(self.state, next(self.batches), self.setting, Rate(*told["rate"]))


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Signals are for rank 0, which ends this process by ending itself: it may want to finish the update first."""
    heard = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
