"""Plans of several configurations beside each other."""

import csv
import io
import json
from pathlib import Path

import pytest

from tests.conftest import TINY
from upcycle.cli import main
from upcycle.jobs.overlay import print_plans
from upcycle.recipes import resolve
from upcycle.reporting.progress import Silent


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert 0 == main(["plan", *words]), capsys.readouterr().err
    return capsys.readouterr().out


def found(names: list[str], **options: object) -> list[dict[str, object]]:
    values = print_plans(
        options, names, data=None, steps_per_epoch=10, layers=False, csv=False, plot=None, show=Silent()
    )()
    listed = values["variants"]
    assert isinstance(listed, list)
    return listed


def test_each_variant_has_a_row_and_a_curve_of_rate_and_of_momentum(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.toml").write_text("epochs = 60\nlr = 3e-4\n")
    said = shown(["--variants", "default,classic,mine.toml", "--steps-per-epoch", "10"], capsys)
    rows = [line.split() for line in said.splitlines()]
    assert ["default", "3", "30", "4e-5", "9.99e-4", "7", "1e-7", "0.95", "0.8501", "0.95"] in rows
    assert ["classic", "100", "1,000", "1e-5", "1e-4", "50", "1e-5", "0.9"] in rows
    assert any(row[:3] == ["mine", "60", "600"] for row in rows)
    assert 2 == said.count("• default   × classic   + mine")
    assert "Learning rate\n" in said
    assert "Momentum\n" in said
    assert "default: the probe decides: 8 epochs near the pretrained features, 10 far from them" in said
    assert 80 >= max(len(line) for line in said.splitlines() if "the probe decides" not in line)


def test_options_of_the_command_are_over_those_of_all_variants() -> None:
    Path("mine.toml").write_text("epochs = 60\nlr = 3e-4\n")
    plans = found(["default", "mine.toml", "constant"], epochs=7, lr=2e-3)
    assert [(7, 70)] * 3 == [(one["epochs"], one["updates"]) for one in plans]
    assert [2e-3] * 3 == pytest.approx([one["highest_rate"] for one in plans], rel=1e-3)


def test_a_variant_that_tries_rates_has_a_plan_for_each() -> None:
    names = ["1e-5 constant-tuned", "3e-5 constant-tuned", "1e-4 constant-tuned", "3e-4 constant-tuned"]
    assert names == [one["name"] for one in found(["constant-tuned"])]
    assert ["constant-tuned"] == [one["name"] for one in found(["constant-tuned"], lr=1e-3)]


def test_csv_names_the_variant_where_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    both = list(csv.DictReader(io.StringIO(shown(["--variants", "default,constant", "--csv"], capsys))))
    assert ["variant", "phase", "step", "epoch", "lr", "momentum"] == list(both[0])
    assert {"default": 3, "constant": 100} == {
        name: sum(row["variant"] == name for row in both) for name in ("default", "constant")
    }
    one = shown(["--variants", "default", "--csv"], capsys)
    assert shown(["--csv"], capsys) == one
    assert one.startswith("phase,step,epoch,lr,momentum\n")


def test_json_is_a_list_of_variants_or_the_one_plan(capsys: pytest.CaptureFixture[str]) -> None:
    made = json.loads(shown(["--variants", "default,classic", "--json"], capsys))
    assert ["default", "classic"] == [one["name"] for one in made["variants"]]
    assert {"first": 0.9, "highest_rate": 0.9, "last": 0.9} == made["variants"][1]["momentum"]
    assert 500 >= len(made["variants"][1]["phases"][0]["rates"])
    alone = json.loads(shown(["--json"], capsys))
    with_layers = json.loads(shown(["--json", "--layers", "--arch", "resnet18"], capsys))
    assert ({"phases"}, {"phases", "layers"}) == (set(alone), set(with_layers))
    assert alone["phases"] == with_layers["phases"]
    assert {"name": "layer4", "scale": 0.6, "frozen": "no", "rate": 6e-4} == with_layers["layers"][1]


def test_layers_have_their_rates_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--variants", "default,classic", "--layers", "--arch", "resnet18", "--steps-per-epoch", "44"]
    rows = [line.split() for line in shown(words, capsys).splitlines()]
    assert ["layer4", "6e-4", "1e-4"] in rows
    assert ["layer1", "1.3e-4*", "1e-4"] in rows
    frozen = [line.split() for line in shown([*words, "--freeze", "layer1"], capsys).splitlines()]
    assert ["layer1", "frozen", "frozen"] in frozen


def test_several_are_drawn_into_one_file(capsys: pytest.CaptureFixture[str]) -> None:
    shown(["--variants", "default,classic", "--plot", "both.svg"], capsys)
    drawn = Path("both.svg").read_text()
    assert drawn.startswith("<?xml")
    assert all(name in drawn for name in (">default<", ">classic<", ">momentum<"))


@pytest.mark.parametrize("schedule", ["one-cycle", "warmup-stable-decay", "cosine", "linear", "step", "constant"])
def test_every_schedule_is_drawn(schedule: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(["--variants", "default", "--schedule", schedule, "--epochs", "9", "--plot", "one.png"], capsys)
    assert "Learning rate" in said
    assert Path("one.png").stat().st_size > 5000


def test_data_gives_the_updates_of_an_epoch_and_a_time(
    photos: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = {"arch": TINY, "weights": tiny_weights, "image-size": 32, "threads": 1, "device": "cpu", "batch-size": 5}
    words = [str(photos), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    said = shown([*words, "--variants", "default,classic"], capsys)
    rows = [line.split() for line in said.splitlines()]
    assert any(row[:3] == ["default", "24", "5"] and row[-1] == "s" for row in rows)
    assert any(row[:3] == ["classic", "100", "500"] for row in rows)
    assert "Highest rate by layers" in said
    assert 1 == said.count("56 images of 2 classes")
    made = json.loads(shown([*words, "--json"], capsys))
    assert {"phases", "layers", "estimate"} == set(made)
    assert 5 == made["phases"][0]["steps_per_epoch"]
    assert 0 < made["estimate"]["seconds"][0] <= made["estimate"]["seconds"][1]
    assert shown([*words, "--csv"], capsys).startswith("phase,step,epoch,lr,momentum\n")
    assert [] == list(tmp_path.iterdir())


def test_a_plan_is_that_of_the_options_of_the_recipe() -> None:
    (plan,) = found(["classic"])
    assert resolve({"recipe": "classic"}).epochs == plan["epochs"]
