"""The frozen, validated configuration of a run: every option is defined here, once.

The command line, Python keyword arguments, TOML files and `config.json` use the same flat names.
Defaults are those of the `default` recipe; `upcycle.recipes` names the others.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from upcycle.errors import ConfigError
from upcycle.history import MONITORS
from upcycle.remote import place

ALIASES = {
    "lr_max": "lr",
    "max_lr": "lr",
    "learning_rate": "lr",
    "bs": "batch_size",
    "imgsz": "image_size",
    "div_factor": "div",
    "pretrained": "weights",
    "num_workers": "workers",
    "anneal_strategy": "anneal",
    "peak_value": "lr",
    "warmup_ratio": "warmup",
    "lr_scheduler_type": "schedule",
}
"""Names that other tools' users know, where the meaning is the same."""
OF_SCHEDULES_ELSEWHERE = {
    **dict.fromkeys(("onecycle", "onecyclelr", "1cycle", "fit-one-cycle", "cosine-onecycle-schedule"), "one-cycle"),
    **dict.fromkeys(("wsd", "trapezoid", "get-wsd-schedule"), "warmup-stable-decay"),
    **dict.fromkeys(("cosine-with-warmup", "get-cosine-schedule-with-warmup"), "cosine"),
    **dict.fromkeys(("linear-with-warmup", "get-linear-schedule-with-warmup"), "linear"),
    **dict.fromkeys(("steplr", "step-lr"), "step"),
}
"""Names that torch, fastai, optax and transformers have for a schedule of the same meaning."""
IMAGES = "one folder or a manifest"
"""What DATA is."""
READING = (
    *("train_split", "val_split", "test_split", "classes_at", "drop_empty_classes", "regroup", "image_root"),
    *("image_suffix", "path_column", "label_column", "split_column", "group_column"),
)
"""Options that say how DATA is read."""
OPTIMIZERS = (
    *("adafactor", "adam", "adamax", "adamw", "adopt", "adoptw", "cadamw", "clion", "lars", "lion", "madgrad"),
    *("momentum", "nadam", "nadamw", "nesterov", "radam", "radamw", "rmsprop", "rmsproptf", "sgd", "sgdw"),
)
"""Those of timm's optimizers that a resumed run continues with to the same bits, as a test holds."""
AUTO_RATE = "auto"
"""The word for a rate that a range test picks: `upcycle.recipes.peak_rate` has the number until then."""
CUSTOM = "custom"
"""What an option is where a value or a function of the caller's stands for it."""
OF_SCHEDULES = (
    *("lr", "lr_adapt", "lr_start", "lr_min", "rampup", "sustain", "decay"),
    *("pct_start", "div", "div_final", "anneal", "moms", "three_phase", "momentum"),
    *("warmup", "cooldown", "cooldown_shape", "step_size", "gamma"),
)
"""Options that a schedule's value replaces."""
PATHS = ("weights", "input", "cache", "quarantine", "image_root")
"""Options that are, or may be, a path."""
HUB, FOLDER = "hf-hub:", "local-dir:"
"""timm's words before the name of a model on the hub, and before a folder."""
GROUPS = {
    "Main options": (
        *("recipe", "arch", "weights", "epochs", "batch_size", "image_size", "lr", "test_split", "class_weights"),
        "seed",
    ),
    "Data": (
        *("train_split", "val_split", "val_fraction", "test_fraction", "split_seed", "folds", "quarantine"),
        *("classes_at", "drop_empty_classes", "regroup", "image_root", "image_suffix"),
        *("path_column", "label_column", "split_column", "group_column"),
    ),
    "Network and input": (
        *("input", "crop_pct", "scale", "probe", "probe_layers", "refit", "views", "fine_tune", "freeze", "bn"),
    ),
    "Schedule": ("schedule", "min_updates", *(name for name in OF_SCHEDULES if name not in ("lr", "momentum"))),
    "Optimizer": (*("optimizer", "weight_decay", "momentum", "beta2", "eps", "layer_decay", "clip_grad", "ema_decay"),),
    "Loss and augmentation": ("loss", "label_smoothing", "augment", "mixup"),
    "Stopping": ("monitor", "patience", "start_from_epoch", "on_divergence"),
    "Hardware and files": (
        *(
            "device",
            "precision",
            "threads",
            "workers",
            "fold_bn",
            "exact_shards",
            "checkpoint_every",
            "cache",
            "cache_budget",
        ),
    ),
}
"""The options of `upcycle train --help` in groups, those that matter first."""
BEFORE = {"fine_tune": "always", "min_updates": 0, "clip_grad": 0.0, "ema_decay": 0.0}
BEFORE |= {"probe_layers": "last", "views": "none", "refit": False, "cooldown": 0.0}
"""What runs did that are older than these options."""
FACTS = ("data", "weights_sha256", "updates")
"""What a run records beside its options."""
NUMBERS_OR_NONE = ("image_size", "crop_pct", "scale", "patience", "split_seed", "workers", "classes_at")
"""Options whose number may be left out again, by the word none."""


class Config(BaseModel):
    """Everything that decides what a run does; a value is checked when it is set."""

    # built on first use: the command line declares several groups of these options and validates one
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    recipe: Literal["default", "classic", "probe", "simple-cnn"] = Field("default", description="Named settings.")
    arch: str = Field("resnet50", description="Any timm architecture, with or without a tag; auto: race some.")
    weights: str = Field("auto", description="auto (timm's cache, a package, a download), none, a FILE or a RUN.")
    input: str | None = Field(
        None, description="JSON file with image size, crop, interpolation, mean and std, for weights without them."
    )

    train_split: str | None = Field(None, description="Folder or split of DATA to train on, e.g. seg_train.")
    val_split: str | None = Field(None, description="Folder or split of DATA that validates, e.g. dev.")
    test_split: str | None = Field(None, description="Folder or split of DATA that is the test set, e.g. val.")
    classes_at: int | None = Field(
        None, ge=1, le=20, description="Level of folders below DATA that are the classes, where names do not tell."
    )
    drop_empty_classes: bool = Field(False, description="Leave out classes without a usable image.")
    regroup: bool = Field(False, description="Draw the split again for groups that lie on several declared sides.")
    image_root: str | None = Field(None, description="Folder that a manifest's paths are relative to.")
    image_suffix: str = Field("", max_length=50, description="Ending of a manifest's paths where they lack it: .jpg.")
    path_column: str | None = Field(None, description="The manifest's column of paths.")
    label_column: str | None = Field(None, description="The manifest's column of classes.")
    split_column: str | None = Field(None, description="The manifest's column of splits; none: it has none.")
    group_column: str | None = Field(None, description="The manifest's column of groups; none: it has none.")
    quarantine: str | None = Field(
        None, description="CSV file of images to leave out, as upcycle scan writes it: excluded,path,reason."
    )
    val_fraction: float = Field(0.15, gt=0, lt=0.9, description="Part split off to validate, where DATA has none.")
    test_fraction: float = Field(
        0.15, ge=0, lt=0.9, description="Fraction split off as the test set, where DATA has none (0: no test set)."
    )
    folds: int = Field(0, ge=0, le=50, description="Cross-validate with this many folds (0: one split).")

    epochs: int = Field(3, ge=0, le=10_000, description="Epochs of fine-tuning (0: the probe alone).")
    batch_size: int = Field(32, ge=1, le=8192, description="Images an update.")
    image_size: int | None = Field(
        None, ge=16, le=2048, description="Pixels of the square input; left out, what the weights were trained at."
    )
    crop_pct: float | None = Field(
        None, ge=0.1, le=1, description="Part of the short side that the crop keeps; left out, the weights' own."
    )
    scale: float | None = Field(
        None, gt=0, le=2**32, description="White in images of more than 8 bits, e.g. 4095 of 12 bits; left out, 65535."
    )
    probe: bool = Field(
        True, description="Start from a linear head on the frozen features, and keep it where fine-tuning is no better."
    )
    probe_layers: Literal["auto", "last"] = Field(
        "auto", description="The head reads pooled maps of earlier stages where they help, or the last stage alone."
    )
    refit: bool = Field(True, description="Train a probe that is kept again, on the validation images as well.")
    views: Literal["auto", "none", "flip", "square"] = Field(
        "auto", description="Views whose logits are averaged: flip, square (all 8), none; auto: flip if it pays."
    )
    fine_tune: Literal["auto", "always", "never"] = Field(
        "auto", description="auto: if the validation images can show a gain (always when --epochs is given)."
    )

    schedule: Literal[
        "one-cycle", "ramp-sustain-decay", "warmup-stable-decay", "cosine", "linear", "step", "constant", "custom"
    ] = Field("one-cycle", description="Shape of the learning rate; custom: a value passed from Python.")
    lr: float | Literal["auto"] = Field(
        1e-3, description="Highest learning rate (fastai: lr_max); auto: by a range test."
    )
    lr_adapt: bool = Field(True, description="Lower the peak on near tasks (off when --lr is given).")
    min_updates: int = Field(
        300, ge=0, le=1_000_000, description="Updates that epochs are added for (off when --epochs is given; 0: off)."
    )
    lr_start: float = Field(1e-5, ge=0, description="First rate of ramp-sustain-decay.")
    lr_min: float = Field(1e-5, ge=0, description="Rate that ramp-sustain-decay decays to.")
    rampup: int = Field(5, ge=0, description="Epochs of ramp-up of ramp-sustain-decay.")
    sustain: int = Field(0, ge=0, description="Epochs at the highest rate of ramp-sustain-decay.")
    decay: float = Field(0.8, ge=0, le=1, description="Factor an epoch of ramp-sustain-decay.")
    pct_start: float = Field(0.25, ge=0, le=1, description="Fraction of a one-cycle run that the rate rises.")
    div: float = Field(25.0, ge=1, description="One-cycle and warm-ups start at lr / div.")
    div_final: float = Field(1e4, ge=1, description="One-cycle and decays end at lr / div_final.")
    anneal: Literal["cos", "linear"] = Field("cos", description="Shape of one-cycle's flanks.")
    moms: tuple[float, float, float] = Field((0.95, 0.85, 0.95), description="One-cycle's momentum: start, peak, end.")
    three_phase: bool = Field(False, description="One-cycle falls as fast as it rose, then to its end.")
    warmup: float = Field(0.05, ge=0, le=1, description="Fraction of the run that warm-up takes.")
    cooldown: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Fraction of updates that the rate falls at the end of warmup-stable-decay, and of "
        "a run that patience or upcycle finish ends (0: at once).",
    )
    cooldown_shape: Literal["linear", "cos", "1-sqrt"] = Field("1-sqrt", description="How the rate falls there.")
    step_size: int = Field(1, ge=1, le=10_000, description="Epochs between steps of the step schedule.")
    gamma: float = Field(0.1, ge=0, le=1, description="Factor of the step schedule.")

    optimizer: str = Field("adamw", description=f"Update rule: {', '.join(OPTIMIZERS)}.")
    weight_decay: float = Field(0.01, ge=0, le=10, description="Decoupled weight decay; none on norms, biases, tokens.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, or Adam's beta1, where the schedule sets none.")
    beta2: float = Field(0.99, ge=0, lt=1, description="Adam's second decay rate.")
    eps: float = Field(1e-8, gt=0, le=1, description="Adam's denominator offset.")
    layer_decay: float = Field(0.6, gt=0, le=1, description="Factor on the rate for each group of layers further down.")
    clip_grad: float = Field(1.0, ge=0, le=1e6, description="Highest norm of an update's gradients (0: no limit).")
    ema_decay: float = Field(
        0.99, ge=0, lt=1, description="Decay of the weights' moving average, a candidate (0: off)."
    )
    freeze: str = Field(
        "auto", description="Freeze everything up to and including LAYER; none; auto: the lower half, or none if far."
    )
    bn: Literal["frozen", "train"] = Field("frozen", description="BatchNorm statistics: as pretrained, or estimated.")

    loss: Literal["cross-entropy", "custom"] = Field(
        "cross-entropy", description="What training lowers; custom: a function passed from Python."
    )
    augment: Literal["auto", "light", "square", "none", "custom"] = Field(
        "auto", description="light: crop, flip, slight color; square: turns too; auto: these where they mean nothing."
    )
    mixup: float = Field(0.0, ge=0, le=10, description="Mixup's alpha (0: off).")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Probability spread evenly over all classes.")
    class_weights: str = Field(
        "none", description="none, balanced, NAME=WEIGHT for every class with commas between, or weights in order."
    )

    monitor: str = Field("val_loss", description=f"What decides which epoch is best: {', '.join(MONITORS)}.")
    patience: int | None = Field(None, ge=1, description="Stop after this many epochs without improvement.")
    start_from_epoch: int = Field(0, ge=0, description="Epochs before patience counts.")

    seed: int = Field(0, ge=0, lt=2**31, description="Decides the split, the order and the augmentation.")
    split_seed: int | None = Field(None, ge=0, lt=2**31, description="Decides the split alone; left out, --seed.")
    threads: int = Field(0, ge=0, le=1024, description="Processor threads (0: all that may be used).")
    workers: int | None = Field(
        None, ge=0, le=64, description="Threads that make batches ahead (0: on demand); left out, by the machine."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it.")
    fold_bn: bool = Field(
        True, description="Compute BatchNorm with fixed statistics inside the convolution before it: faster."
    )
    exact_shards: int = Field(
        0,
        ge=0,
        le=256,
        description="Add gradients in so many parts of a batch, a power of two: equal bits from 1, 2, 4 ... processes.",
    )
    device: str = Field("auto", description="auto, cpu, cuda or mps.")
    on_divergence: Literal["stop", "retry"] = Field(
        "stop", description="When the loss explodes: stop, or go on at half the rate, at most twice."
    )
    checkpoint_every: float = Field(
        60.0, ge=0, le=86400, description="Seconds between the states kept within an epoch (0: none)."
    )
    cache_budget: float = Field(
        20.0, ge=0, le=1e6, description="Gigabytes that photos at addresses may take on the local disk."
    )
    cache: str | None = Field(None, description="Folder of decoded images and features; default ~/.cache/upcycle.")

    @field_validator("*", mode="before")
    @classmethod
    def _are_no_switches(cls, given: object, field: ValidationInfo) -> object:
        of_switch = cls.model_fields[str(field.field_name)].annotation is bool
        items = given if isinstance(given, list | tuple) else [given]
        if not of_switch and any(isinstance(item, bool) for item in items):
            raise ValueError("true and false are no value of this option")
        return given

    @field_validator("schedule", mode="before")
    @classmethod
    def _by_any_name(cls, given: object) -> object:
        return OF_SCHEDULES_ELSEWHERE.get(given.lower().replace("_", "-"), given) if isinstance(given, str) else given

    @field_validator("lr")
    @classmethod
    def _is_rate(cls, lr: float | str) -> float | str:
        if not isinstance(lr, str) and not 0 < lr <= 100:
            raise ValueError("input should be greater than 0 and at most 100, or auto")
        return lr

    @field_validator("monitor")
    @classmethod
    def _can_be_watched(cls, monitor: str) -> str:
        if monitor not in MONITORS:
            raise ValueError(f"choose one of {', '.join(MONITORS)}")
        return monitor

    @field_validator("optimizer")
    @classmethod
    def _resumes_exactly(cls, optimizer: str) -> str:
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"choose one of {', '.join(OPTIMIZERS)}, with which a resumed run has the same bits")
        return optimizer

    @field_validator(*NUMBERS_OR_NONE, mode="before")
    @classmethod
    def _may_be_none(cls, given: object) -> object:
        return None if given == "none" else given

    @field_validator("class_weights", mode="before")
    @classmethod
    def _are_weights(cls, given: object) -> object:
        from upcycle.task import class_weights_text  # which loads numpy: the command's help does without

        return class_weights_text(given)

    @field_validator("moms")
    @classmethod
    def _are_momenta(cls, moms: tuple[float, float, float]) -> tuple[float, float, float]:
        if any(not 0 <= value < 1 for value in moms):
            raise ValueError("use 0 or more and less than 1")
        return moms

    @field_validator("exact_shards")
    @classmethod
    def _are_halves_of_halves(cls, shards: int) -> int:
        if shards & (shards - 1):
            raise ValueError("use 2, 4, 8 or another power of two, or 0 for no fixed order")
        return shards

    @field_validator("folds")
    @classmethod
    def _are_folds(cls, folds: int) -> int:
        if folds == 1:
            raise ValueError("one fold is no cross-validation: use 2 or more, or 0 for one split")
        return folds

    @property
    def seed_of_split(self) -> int:
        """The seed that decides which images are split off."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def tunes(self) -> bool:
        """Whether more than a probe may be trained."""
        return self.epochs > 0 and not (self.probe and self.fine_tune == "never")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.model_dump(mode="json")


def _check(config: Config) -> Config:
    """`config` itself when its values agree with each other; ConfigError otherwise."""
    if config.val_fraction + config.test_fraction >= 0.95:
        raise ConfigError("val_fraction and test_fraction leave nothing to train on")
    if not config.tunes and config.weights == "none":
        raise ConfigError("a probe needs pretrained weights, and weights = none: give others, or 1 or more epochs")
    if config.epochs == 0 and not config.probe:
        raise ConfigError("epochs = 0 trains the probe alone, and probe = false none: nothing would be trained")
    if config.loss == CUSTOM and (config.label_smoothing or config.class_weights != "none"):
        option = "label_smoothing" if config.label_smoothing else "class_weights"
        raise ConfigError(f"{option} is part of the cross-entropy, and another loss was given: leave one of them out")
    ramp = config.rampup + config.sustain
    if config.schedule == "ramp-sustain-decay" and ramp > config.epochs > 0:
        raise ConfigError(
            f"a ramp-up of {config.rampup} and a plateau of {config.sustain} epochs are longer than the run of "
            f"{config.epochs}: give {ramp} or more --epochs, or at most {_longest_ramp(config)}"
        )
    if config.schedule == "warmup-stable-decay" and config.warmup + config.cooldown > 1:
        raise ConfigError(
            f"warmup = {config.warmup:g} and cooldown = {config.cooldown:g} are longer than the run: give --cooldown "
            f"{1 - config.warmup:g} or less"
        )
    if config.schedule == "one-cycle" and config.three_phase and config.pct_start > 0.5:
        raise ConfigError(
            f"three_phase rises and falls for pct_start = {config.pct_start:g} of the run each: give --pct-start 0.5 "
            "or less"
        )
    ramped = config.schedule == "ramp-sustain-decay" and not isinstance(config.lr, str)
    if ramped and max(config.lr_start, config.lr_min) > float(config.lr):
        least = max(config.lr_start, config.lr_min)
        raise ConfigError(
            f"lr = {config.lr:g} is to be the highest rate, but lr_start is {config.lr_start:g} and lr_min "
            f"{config.lr_min:g}: give --lr {least:g} or more, or lower those to {config.lr:g}"
        )
    return config


def _longest_ramp(config: Config) -> str:
    """The nearest ramp-up, then plateau, that the run of ramp-sustain-decay has room for."""
    sustain = min(config.sustain, config.epochs)
    return f"--rampup {config.epochs - sustain}" + (f" --sustain {sustain}" if sustain < config.sustain else "")


def canonical(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`values` under their canonical names; ConfigError, with the nearest name, for an unknown one."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        key = ALIASES.get(name.replace("-", "_"), name.replace("-", "_"))
        if key == "head_epochs":
            raise ConfigError(f"{name!r}{where} is gone: give --probe or --no-probe (in Python and TOML: probe)")
        if key == "final_div_factor":
            raise ConfigError(
                f"{name!r}{where} divides the first rate, in torch: give div_final = div * final_div_factor"
            )
        if key not in Config.model_fields:
            near = difflib.get_close_matches(key, [*Config.model_fields, *ALIASES], n=1)
            hint = f": did you mean {near[0]}?" if near else ": see upcycle train --help"
            raise ConfigError(f"unknown option {name!r}{where}{hint}")
        if key in plain:
            raise ConfigError(f"{name!r}{where} says again what an earlier option said ({key})")
        plain[key] = value
    if isinstance(plain.get("weights"), bool):  # as other tools say it: pretrained=True
        plain["weights"] = "auto" if plain["weights"] else "none"
    return plain


def absolute(options: dict[str, Any]) -> dict[str, Any]:
    """`options`, under canonical names, with paths that do not depend on the working directory."""
    given = dict(options)
    for name in PATHS:
        value = given.get(name)
        if not isinstance(value, str | Path) or str(value) in ("auto", "none"):
            continue
        word = next((word for word in (HUB, FOLDER) if name == "weights" and str(value).startswith(word)), "")
        if word != HUB:
            given[name] = word + str(expanded(str(value).removeprefix(word)).resolve())
    return given


def expanded(path: Path | str, wanted: str = "one folder or file") -> Path:
    """`path` with ~ as the home it means; ConfigError, saying what is `wanted`, where that is nobody's or no path."""
    try:
        return place(path).expanduser()
    except TypeError:
        raise ConfigError(f"a value of type {type(path).__name__} is no path: give {wanted}") from None
    except RuntimeError as error:
        raise ConfigError(f"{str(path)!r}: {error}") from None


def path_or_none(given: Path | str | None, wanted: str) -> Path | None:
    """The same, where nothing and an empty word mean none."""
    return None if given is None or (isinstance(given, str) and not given) else expanded(given, wanted)


def build(values: Mapping[str, Any], where: str = "") -> Config:
    """A Config from plain values; ConfigError, in one line, for the first that is wrong."""
    return _check(_validated(canonical(values, where), where))


def from_words(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values that options have when they are written as words; ConfigError for the first that is wrong."""
    config = _validated(options)
    return {name: getattr(config, name) for name in options}


def _validated(values: Mapping[str, Any], where: str = "") -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explained(error) + where) from None


def _explained(error: ValidationError) -> str:
    """The first problem of a validation in one line."""
    first, *others = error.errors()
    message = first["msg"].removeprefix("Value error, ")
    words = [one["ctx"]["expected"] for one in others if one["loc"][:1] == first["loc"][:1] and "ctx" in one]
    message += "".join(f", or {word}" for word in words if first["type"] == "float_parsing")
    where = first["loc"]  # of a union's kinds the names follow, of a tuple's entries their places
    name = ".".join(str(part) for part in where if part == where[0] or isinstance(part, int))
    if not name:
        return message
    given = " ".join(repr(first["input"]).split())
    return f"{name} = {given if len(given) <= 100 else f'{given[:97]}...'}: {message[:1].lower()}{message[1:]}"


def read_toml(path: Path) -> dict[str, Any]:
    """The options that a TOML file sets, under canonical names; ConfigError when it cannot be used."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a mark first
    except FileNotFoundError:
        raise ConfigError(f"configuration {path} does not exist") from None
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration {path} cannot be read: {error}") from None
    return canonical(values, f" in {path}")


def read_config(path: Path) -> Config:
    """The configuration a run has written; ConfigError when it cannot be used."""
    try:
        values = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))  # paths are any bytes
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"configuration {path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"configuration {path} does not hold options")
    return build(_options(values), f" in {path}")


def _options(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run's record, older ones under the names that they have now."""
    options = {key: value for key, value in recorded.items() if key not in FACTS}
    restarted = options.pop("more_epochs", ())
    if isinstance(restarted, list) and all(isinstance(epochs, int) for epochs in (*restarted, options.get("epochs"))):
        options["epochs"] += sum(restarted)
    options = {**BEFORE, **options}
    if "head_epochs" in options:  # of a version that trained the probe by epochs
        options["probe"] = options.pop("head_epochs") != 0
    return options
