"""Options: defaults, ranges, aliases, files."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from upcycle.config import GROUPS, Config, absolute, build, read_config, read_toml
from upcycle.errors import ConfigError
from upcycle.options import TrainOptions
from upcycle.recipes import resolve
from upcycle.rundir import write_json
from upcycle.task import parse_class_weights


def test_an_unknown_option_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^unknown option 'epoch': did you mean epochs\?$"):
        build({"epoch": 3})


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("lr_max", "lr", 0.01),
        ("learning_rate", "lr", 0.01),
        ("learning-rate", "lr", 0.01),
        ("bs", "batch_size", 8),
        ("imgsz", "image_size", 96),
        ("num_workers", "workers", 2),
        ("batch-size", "batch_size", 8),
    ],
)
def test_names_from_other_tools_are_understood(alias: str, name: str, value: float) -> None:
    assert value == getattr(build({alias: value}), name)


def test_what_a_recipe_sets_can_be_left_out_again() -> None:
    assert resolve({"recipe": "classic", "patience": "none"}).patience is None
    assert 5 == resolve({"recipe": "classic"}).patience


@pytest.mark.parametrize("recipe", [{"epochs": 3}, ["classic"], 3])
def test_a_recipe_that_is_no_name_is_one_line(recipe: object) -> None:
    with pytest.raises(ConfigError, match="unknown recipe .*: choose one of"):
        resolve({"recipe": recipe})


def test_a_path_of_any_bytes_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {**build({}).to_dict(), "cache": "/data/\udcff"})
    assert "/data/\udcff" == read_config(tmp_path / "config.json").cache


def test_a_home_of_nobody_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^'~nobody-here/x': "):
        absolute({"cache": "~nobody-here/x"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("hf-hub:timm/resnet50.a1_in1k@main", "hf-hub:timm/resnet50.a1_in1k@main"),
        ("local-dir:a/b", "local-dir:/work/a/b"),
        ("local-dir:/a/b", "local-dir:/a/b"),
        ("local-dir:~/b", "local-dir:/home/b"),
        ("a/../b.safetensors", "/work/b.safetensors"),
        ("auto", "auto"),
        ("none", "none"),
    ],
)
def test_weights_that_are_a_path_do_not_depend_on_the_working_directory(
    given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path.resolve()
    (root / "work").mkdir()
    monkeypatch.chdir(root / "work")
    monkeypatch.setenv("HOME", str(root / "home"))
    found = absolute({"weights": given})["weights"]
    assert expected == found.replace(str(root), "")


def test_an_option_given_under_two_names_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'lr_max' says again what an earlier option said"):
        build({"lr": 0.1, "lr_max": 0.2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs = -1: input should be greater than or equal to 0"),
        ({"epochs": 0, "probe": False}, "nothing would be trained"),
        ({"head_epochs": 3}, "'head_epochs' is gone: give --probe or --no-probe"),
        ({"epochs": 0, "weights": "none"}, "a probe needs pretrained weights"),
        ({"epochs": "x"}, "epochs = 'x': input should be a valid integer"),
        ({"lr": float("nan")}, "lr = nan: input should be a finite number"),
        ({"lr": float("inf")}, "lr = inf: input should be a finite number"),
        ({"lr": -1}, "lr = -1: input should be greater than 0"),
        ({"lr": 101}, "lr = 101: input should be greater than 0 and at most 100, or auto"),
        ({"lr": "fast"}, "lr = 'fast': input should be a valid number, .*, or 'auto'"),
        ({"lr": True}, "lr = True: true and false are no value"),
        ({"monitor": "f2"}, "monitor = 'f2': choose one of val_loss"),
        ({"class_weights": "1,x"}, "class_weights = '1,x': class_weights '1,x' is neither none, balanced nor numbers"),
        ({"class_weights": "1,-2"}, "class_weights = '1,-2': class_weights '1,-2' must be positive"),
        ({"folds": 1}, "folds = 1: one fold is no cross-validation"),
        ({"moms": (0.9, 0.8, 1.0)}, "moms = .*: use 0 or more and less than 1"),
        ({"precision": "fp8"}, "precision = 'fp8': input should be 'auto', 'fp32' or 'bf16'"),
        ({"schedule": "ramp-sustain-decay", "rampup": 9, "epochs": 8}, "a ramp-up of 9 .* longer than the run of 8"),
        ({"val_fraction": 0.6, "test_fraction": 0.4}, "leave nothing to train on"),
    ],
)
def test_a_value_out_of_range_is_one_line_that_names_it(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(options)
    assert 1 == len(str(caught.value).splitlines())


def test_a_rate_is_a_number_or_the_word_auto(tmp_path: Path) -> None:
    assert ["auto", 0.01, 1.0] == [build({"lr": lr}).lr for lr in ("auto", "0.01", 1)]
    path = tmp_path / "run.toml"
    path.write_text('lr = "auto"\n')
    config = build(read_toml(path))
    assert config == build({"lr_max": "auto"}) == build(config.to_dict())
    assert "auto" == build({"lr": "auto", "schedule": "ramp-sustain-decay", "lr_start": 1.0, "rampup": 1}).lr


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().epochs = 3  # type: ignore[misc]


def test_toml_options_have_the_command_lines_names(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('epochs = 3\nlr-max = 0.01\nclass_weights = "balanced"\n')
    assert {"epochs": 3, "lr": 0.01, "class_weights": "balanced"} == read_toml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("epochs = ", "cannot be read"), ("epoch = 3", "unknown option 'epoch' in .*run.toml: did you mean epochs")],
)
def test_a_bad_toml_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_toml(path)


def test_a_toml_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xef\xbb\xbfepochs = 3\r\n")
    assert {"epochs": 3} == read_toml(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", True),
        ("lr", False),
        ("folds", True),
        ("patience", True),
        ("workers", False),
        ("seed", True),
        ("moms", (0.9, True, 0.9)),
        ("cache", True),
    ],
)
def test_true_is_no_number(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} = .*: true and false are no value of this option$"):
        build({name: value})


def test_true_is_what_a_switch_takes() -> None:
    assert not build({"lr_adapt": False}).lr_adapt


def test_a_missing_toml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing.toml does not exist"):
        read_toml(tmp_path / "nothing.toml")


def test_a_recorded_configuration_is_read_back(tmp_path: Path) -> None:
    config = build({"epochs": 7, "moms": (0.9, 0.8, 0.9)})
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config.to_dict(), "data": "photos", "weights_sha256": "ab"}))
    assert config == read_config(path)


@pytest.mark.parametrize(
    ("text", "expected"), [("none", "none"), ("balanced", "balanced"), ("1,2.5", (1.0, 2.5)), ("3", (3.0,))]
)
def test_class_weights_are_words_or_numbers(text: str, expected: object) -> None:
    assert expected == parse_class_weights(text)


@pytest.mark.parametrize(("given", "weights"), [(True, "auto"), (False, "none"), ("a.pt", "a.pt")])
def test_pretrained_is_understood_as_other_tools_say_it(given: object, weights: str) -> None:
    assert weights == build({"pretrained": given}).weights
    assert resolve({"pretrained": given}) == resolve({"weights": weights})


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ({"dog": 2.5, "cat": 1}, "cat=1,dog=2.5"),
        ("dog=2.5, cat=1.0", "cat=1,dog=2.5"),
        ('{"dog": 2.5, "cat": 1}', "cat=1,dog=2.5"),
        ({"a=b": 1, "c": 2}, "a=b=1,c=2"),
        ({"a,b": 1, "c": 2}, '{"a,b": 1, "c": 2}'),
        ({" a": 0.1, "c=": 2}, '{" a": 0.1, "c=": 2}'),
        ({"猫": 1, "犬": 3}, "犬=3,猫=1"),
        ({1: 2, 0: 0.25}, "0=0.25,1=2"),
        ({"a": 1e-05, "b": 1e17}, "a=1e-05,b=100000000000000000"),
    ],
)
def test_class_weights_by_name_are_recorded_as_a_text_that_says_the_same(given: object, recorded: str) -> None:
    config = build({"class_weights": given})
    assert recorded == config.class_weights
    assert config == build(config.to_dict())
    if isinstance(given, dict):
        assert {str(name): float(weight) for name, weight in given.items()} == parse_class_weights(recorded)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cat=1,2", "must name every class, as in cat=1,dog=2.5"),
        ("cat=1,cat=2", "class_weights names 'cat' twice"),
        ('{"cat": 1, "cat": 2}', "class_weights names 'cat' twice"),
        ("{cat: 1}", "is no JSON object"),
        ("cat=1,dog=x", "the weight of 'dog' must be a positive number, not 'x'"),
        ({"cat": 1, "dog": True}, "the weight of 'dog' must be a positive number, not True"),
        ({"cat": 1, "dog": None}, "the weight of 'dog' must be a positive number, not None"),
        ({"cat": 1, "dog": float("nan")}, "the weight of 'dog' must be a positive number, not nan"),
        ({"cat": 1, "dog": -1}, "the weight of 'dog' must be a positive number, not -1"),
        ({"cat": 1, "dog": {"x": 1}}, "the weight of 'dog' must be a positive number"),
        ({}, "class_weights names no class"),
    ],
)
def test_class_weights_by_name_that_are_none_are_one_line(given: object, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        build({"class_weights": given})
    assert message in str(raised.value)
    assert 1 == len(str(raised.value).splitlines())


def test_what_an_earlier_run_was_allowed_is_still_read() -> None:
    assert "val" == build({"folds": 5, "test_split": "val"}).test_split


def test_a_run_of_an_earlier_version_did_without_what_is_newer(tmp_path: Path) -> None:
    newer = ("fine_tune", "min_updates", "clip_grad", "ema_decay")
    values = {name: value for name, value in Config().to_dict().items() if name not in newer}
    (tmp_path / "config.json").write_text(json.dumps({**values, "updates": 4}))
    config = read_config(tmp_path / "config.json")
    assert ["always", 0, 0.0, 0.0] == [getattr(config, name) for name in newer]


def test_class_weights_by_name_are_a_table_of_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[class_weights]\n"a=b" = 1\n"c,d" = 2.5\n')
    assert '{"a=b": 1, "c,d": 2.5}' == build(read_toml(path)).class_weights


def test_every_option_has_a_group_of_the_help_and_those_that_matter_come_first() -> None:
    named = [name for names in GROUPS.values() for name in names]
    assert sorted(Config.model_fields) == sorted(named)
    assert 10 == len(next(iter(GROUPS.values())))


def test_typed_keyword_arguments_are_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[1]
    monkeypatch.setattr(sys, "path", [*sys.path, str(root / "lab")])
    made = importlib.import_module("options")
    assert (root / "src" / "upcycle" / "options.py").read_text() == made.source(), (
        "run: python lab/options.py > src/upcycle/options.py"
    )
    assert {*TrainOptions.__annotations__, *made.APART} == set(Config.model_fields)
