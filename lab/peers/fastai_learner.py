"""fastai's `vision_learner`, all layers unfrozen, trained with `fit_one_cycle`.

guide: Resize(460) and aug_transforms as in its book. best: channels_last, no loader worker: fastai starts them
anew in each epoch, with `persistent_workers` too, as its DataLoader makes torch's iterator by itself.
"""

import argparse
import os
from functools import partial

import common
import torch
from fastai.callback.core import Callback
from fastai.vision.all import (
    ImageDataLoaders,
    Learner,
    Normalize,
    OptimWrapper,
    Resize,
    aug_transforms,
    imagenet_stats,
    resnet50,
    vision_learner,
)


class EpochClock(Callback):
    """Times the training part of each epoch, as the other scripts do, and keeps the last loss."""

    last_loss = float("nan")

    def __init__(self, clock: common.Clock) -> None:
        self.clock = clock

    def before_train(self) -> None:
        self.clock.begin()

    def after_batch(self) -> None:
        if self.training:
            EpochClock.last_loss = float(self.learn.loss)

    def after_train(self) -> None:
        self.clock.end()


class ChannelsLast(Callback):
    """Lays weights and images out channel by channel."""

    def before_fit(self) -> None:
        self.learn.model.to(memory_format=torch.channels_last)

    def before_batch(self) -> None:
        self.learn.xb = tuple(x.contiguous(memory_format=torch.channels_last) for x in self.xb)


class BFloat16(Callback):
    """Autocast on a processor: fastai's own to_bf16 asks for CUDA."""

    order = 10

    def before_batch(self) -> None:
        self.context = torch.autocast("cpu", torch.bfloat16)
        self.context.__enter__()

    def after_pred(self) -> None:
        self.context.__exit__(None, None, None)
        self.learn.pred = self.learn.pred.float()


def learner(asked: argparse.Namespace, **split: object) -> Learner:
    """A learner on the folder of `asked`, split as ImageDataLoaders.from_folder is told."""
    best = asked.setting == "best"
    torch.set_num_threads(asked.threads)
    loaders = ImageDataLoaders.from_folder(
        asked.data,
        bs=asked.batch,
        item_tfms=Resize(460 * asked.size // 224),
        batch_tfms=[*aug_transforms(size=asked.size), Normalize.from_stats(*imagenet_stats)],
        num_workers=common.workers(asked, min(16, len(os.sched_getaffinity(0)))),
        device=torch.device("cpu"),
        # the last batch is dropped elsewhere in fastai; here every image counts
        drop_last=False,
        **split,
    )
    fused = {"opt_func": partial(OptimWrapper, opt=partial(torch.optim.AdamW, fused=True))} if asked.fused else {}
    made = vision_learner(loaders, resnet50, pretrained=False, **fused)
    if asked.weights:
        whole = resnet50()
        common.load_backbone(whole, asked.weights)
        body = dict(zip(made.model[0].state_dict(), list(whole.state_dict().values())[:-2], strict=True))
        made.model[0].load_state_dict(body)
    made.add_cbs([ChannelsLast()] if best else [])
    made.add_cbs([BFloat16()] if asked.bf16 else [])
    return made


if __name__ == "__main__":
    given, clock = common.arguments(), common.Clock()
    trained = learner(given, train=".", valid_pct=0.02, seed=0)
    trained.add_cb(EpochClock(clock))
    trained.unfreeze()
    with trained.no_bar(), trained.no_logging():
        trained.fit_one_cycle(given.epochs, 1e-3)
    count = len(trained.dls.train_ds)
    common.report("fastai", clock, count, ("fastai", "torch"), loss=EpochClock.last_loss)
