"""Keyword arguments of `train`, `compare`, `scan` and `plan`, typed. Made by lab/options.py from `Config`.

`schedule`, `loss` and `augment` are arguments of their own, as Python passes values and functions for them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict


class TrainOptions(TypedDict, total=False):
    """Options by name; `upcycle train --help` says what each means."""

    recipe: Literal["default", "classic", "probe", "simple-cnn"]
    arch: str
    weights: str | Path
    input: str | Path | None
    train_split: str | None
    val_split: str | None
    test_split: str | None
    classes_at: int | None
    drop_empty_classes: bool
    regroup: bool
    image_root: str | Path | None
    image_suffix: str
    path_column: str | None
    label_column: str | None
    split_column: str | None
    group_column: str | None
    quarantine: str | Path | None
    val_fraction: float
    test_fraction: float
    folds: int
    epochs: int
    batch_size: int
    image_size: int | None
    crop_pct: float | None
    scale: float | None
    probe: bool
    probe_layers: Literal["auto", "last"]
    refit: bool
    views: Literal["auto", "none", "flip", "square"]
    fine_tune: Literal["auto", "always", "never"]
    lr: float | Literal["auto"]
    lr_adapt: bool
    min_updates: int
    lr_start: float
    lr_min: float
    rampup: int
    sustain: int
    decay: float
    pct_start: float
    div: float
    div_final: float
    anneal: Literal["cos", "linear"]
    moms: Sequence[float]
    three_phase: bool
    warmup: float
    cooldown: float
    cooldown_shape: Literal["linear", "cos", "1-sqrt"]
    step_size: int
    gamma: float
    optimizer: str
    weight_decay: float
    momentum: float
    beta2: float
    eps: float
    layer_decay: float
    clip_grad: float
    ema_decay: float
    freeze: str
    bn: Literal["frozen", "train"]
    mixup: float
    label_smoothing: float
    class_weights: str | Sequence[float] | Mapping[str, float]
    monitor: str
    patience: int | None
    start_from_epoch: int
    seed: int
    split_seed: int | None
    threads: int
    workers: int | None
    precision: Literal["auto", "fp32", "bf16"]
    fold_bn: bool
    exact_shards: int
    device: str
    on_divergence: Literal["stop", "retry"]
    checkpoint_every: float
    cache_budget: float
    cache: str | Path | None
