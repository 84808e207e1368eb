import hashlib
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reporting.pages import Page, picture
from upcycle.audit.findings import Finding, FlaggedImage
from upcycle.changes import Budget, Ending, Replan, changes_to_dicts
from upcycle.errors import RunError
from upcycle.evaluation.calibration import calibration_of, scaled
from upcycle.evaluation.metrics import measure, paired_log_loss
from upcycle.evaluation.results import Candidate, Choice, Predictions, RunEvaluation, read_predictions
from upcycle.history import ProbeResult
from upcycle.reporting.run_page import rivals, write_report
from upcycle.reporting.text import percent
from upcycle.rundir import RunDir, append_line, read_json, write_bytes, write_json, write_lines, write_text

PETS = ("cats", "dogs")
FLOWERS = ("daisy", "dandelion", "rose", "sunflower", "tulip")
HOSTILE = ("<script>alert(1)</script>", "quo\"te's & $x^2$\nnext\u202eline")


# ------------------------------------------------------------------------- a realistic run directory


def predicted(classes: tuple[str, ...], n: int, *, margin: float, seed: int) -> Predictions:
    """Logits that are mostly right: the larger `margin`, the fewer mistakes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    logits = rng.normal(0, 1.6, (n, len(classes)))
    logits[np.arange(n), labels] += margin
    if len(classes) == 2:
        logits = logits[:, 1:] - logits[:, :1]
    hashes = tuple(hashlib.sha256(f"{seed} {at}".encode()).hexdigest() for at in range(n))
    paths = tuple(f"test/{classes[label]}/image_{at:04}.jpg" for at, label in enumerate(labels))
    return Predictions(classes, paths, hashes, ("",) * n, labels, logits.astype(np.float32))


def cycle(steps: int, peak: float, first: int) -> list[dict[str, float]]:
    def at(step: int) -> float:
        part = step / (steps - 1)
        return part / 0.3 if part < 0.3 else 0.5 + 0.5 * math.cos(math.pi * (part - 0.3) / 0.7)

    return [
        {"step": first + step, "lr": peak * (0.04 + 0.96 * at(step)), "momentum": 0.95 - 0.1 * at(step)}
        for step in range(steps)
    ]


FINETUNE = ("finetune", 6, 15, 3e-4)
WITH_HEAD = (("head", 20, 4, 3e-2), FINETUNE)
"""What a run of an earlier version has: the probe trained by epochs."""


def write_training(run: RunDir, planned: Sequence[tuple[str, int, int, float]] = (FINETUNE,)) -> None:
    phases, step = [], 0
    for name, epochs, steps, peak in planned:
        rates = cycle(epochs * steps, peak, step)
        phases.append({"name": name, "epochs": epochs, "steps_per_epoch": steps, "per": "step", "rates": rates})
        high, low = (0.66, 0.12) if name == "head" else (0.15, 0.05)
        for epoch in range(1, epochs + 1):
            step += steps
            loss = low + (high - low) * math.exp(-3.5 * epoch / epochs)
            wobble = 0.008 * math.sin(5 * epoch)
            clock = {"phase": name, "epoch": epoch, "seconds": 0.3 if name == "head" else 14.2 + epoch / 10}
            append_line(run.timings, {**clock, "images_per_second": 1460.0 if name == "head" else 33.8})
            row = {"phase": name, "epoch": epoch, "step": step, "lr": rates[epoch * steps - 1]["lr"]}
            values = {"loss": loss, "accuracy": 1 - 0.4 * loss, "momentum": 0.9, "val_f1_macro": 0.9}
            held = {"val_loss": loss + 0.03 + wobble, "val_accuracy": 0.985 - 0.42 * loss - wobble}
            append_line(run.history, {**row, **values, **held, "best": epoch in (1, 2, epochs - 1)})
    write_json(run.plan, {"phases": phases})


def found(kind: str, *groups: tuple[str, ...]) -> dict[str, object]:
    """A finding, as JSON has it; the class of an image is its folder."""
    images = tuple(tuple(FlaggedImage(path, path.split("/")[-2]) for path in group) for group in groups)
    return Finding(kind, "", "", "", images).to_dict()


def write_audit(run: RunDir, classes: tuple[str, ...]) -> None:
    per_class = {"train": 24, "val": 12, "test": 160 // len(classes)}
    splits = {
        split: {name: count + (split == "train") * at for at, name in enumerate(classes)}
        for split, count in per_class.items()
    }
    totals = {name: sum(counts[name] for counts in splits.values()) for name in classes}
    folder = f"train/{classes[0]}"
    write_json(
        run.audit,
        {
            "images": sum(totals.values()),
            "classes": totals,
            "splits": splits,
            "quarantined": [
                {"path": f"{folder}/broken 1.jpg", "reason": "the file is cut short (41 of 812 bytes)"},
                {"path": f"{folder}/notes.png", "reason": "not an image"},
            ],
            "findings": [
                found("copies", *((f"{folder}/a_{at}.jpg", f"{folder}/a_{at} (copy).jpg") for at in range(23))),
                found("conflicts", (f"{folder}/x.jpg", f"train/{classes[1]}/x.jpg")),
            ],
            "warnings": [
                f"the training set has only {per_class['train']} images of {classes[0]}",
                "2 files could not be read and are not used",
            ],
        },
    )


def write_machine(run: RunDir, classes: tuple[str, ...], data: str) -> None:
    preprocessing = {"size": 224, "crop_pct": 0.875, "interpolation": "bilinear", "mean": [0.485, 0.456, 0.406]}
    weights = {"source": "resnet50_imagenet.safetensors", "sha256": hashlib.sha256(b"weights").hexdigest()}
    write_json(
        run.model,
        {
            "arch": "resnet50",
            "classes": list(classes),
            "preprocessing": preprocessing,
            "weights": weights,
            "parameters": 23_510_081,
            "trained_parameters": 14_966_785,
            "outputs": 1 if len(classes) == 2 else len(classes),
        },
    )
    options = {
        "recipe": "default",
        "arch": "resnet50",
        "epochs": 6,
        "probe": True,
        "batch_size": 32,
        "image_size": None,
    }
    rates = {"lr": 3e-4, "pct_start": 0.25, "moms": [0.95, 0.85, 0.95], "layer_decay": 0.6, "mixup": 0.0}
    write_json(run.config, {**options, **rates, "monitor": "val_loss", "seed": 0, "data": data})
    write_json(
        run.environment,
        {
            "command": f"upcycle train '{data}' --recipe default --epochs 6 --out runs/first",
            "versions": {"python": "3.11.9", "upcycle": "0.1.0", "torch": "2.11.0", "timm": "1.0.31"},
            "processor": "Intel(R) Xeon(R) Platinum 8481C",
            "cores": 2,
            "threads": 2,
            "precision": "bf16",
            "device": "cpu",
            "memory_gb": 23.4,
            "started": "2026-03-02 10:15:00 UTC",
        },
    )


def write_scores(run: RunDir, classes: tuple[str, ...], margin: float) -> Predictions:
    test = predicted(classes, 160, margin=margin, seed=1)
    val = predicted(classes, 40, margin=margin, seed=2)
    probe = predicted(classes, 160, margin=margin - 0.7, seed=1)
    for name, split in (("test", test), ("val", val), ("probe_test", probe)):
        split.save(run.predictions(name))
    paired = paired_log_loss(val, predicted(classes, 40, margin=margin - 0.7, seed=2))
    says = "fine-tuning kept: its validation log loss is lower by more than one standard error"
    choice = {"chosen": "finetune", "mean_difference": paired.mean_difference, "says": says}
    scores = {
        name: measure(split, n_boot=200).to_dict()
        for name, split in (("test", test), ("val", val), ("probe_test", probe))
    }
    write_json(run.evaluation, {**scores, "choice": {**choice, "standard_error": paired.standard_error}})
    return test


def sample_run(
    root: Path,
    classes: tuple[str, ...] = PETS,
    *,
    margin: float = 4.5,
    data: str = "photos/cats_dogs",
    thumbnails: list[bytes] | None = None,
) -> RunDir:
    """A finished run on 160 test images, with a thumbnail of every mistake."""
    run = RunDir(root)
    root.mkdir(parents=True)
    write_machine(run, classes, data)
    write_audit(run, classes)
    write_training(run)
    write_json(run.probe, ProbeResult({"common": 0.1, "each": 0.01}, 0.103, 0.95, 0.95).to_dict())
    test = write_scores(run, classes, margin)
    for at in np.flatnonzero(test.predicted() != test.labels):
        content = thumbnails[at % len(thumbnails)] if thumbnails else picture(int(at))
        write_bytes(run.thumbnails / f"{test.hashes[at]}.jpg", content)
    run.set_status("finished", stopped="all 6 epochs done", seconds=151.3)
    return run


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = sample_run(tmp_path_factory.mktemp("pets") / "run")
    write_report(run)
    return run


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = sample_run(tmp_path_factory.mktemp("flowers") / "run", FLOWERS, margin=3.2, data="flowers5")
    write_report(run)
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = sample_run(tmp_path_factory.mktemp("hostile") / "run", HOSTILE, data="a 'b\n\"><img src=x onerror=alert(2)>")
    write_report(run)
    return run


@pytest.fixture
def unfinished(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    write_machine(run, PETS, "photos")
    run.set_status("interrupted", seconds=3.0)
    return run


def test_a_report_comes_with_every_figure_as_svg_and_png(pets: RunDir) -> None:
    names = ("confusion", "curves", "metrics", "schedule")
    expected = [f"{name}.{ending}" for name in names for ending in ("png", "svg")]
    assert expected == sorted(file.name for file in pets.figures.iterdir())


def test_the_page_says_what_was_trained_on_what_and_how_well_it_did(pets: RunDir) -> None:
    text = Page(pets.report).text
    assert "A pretrained resnet50 was fine-tuned on 49 images of 2 classes: cats and dogs." in text
    assert (
        "It gets 157 of 160 test images right. Its accuracy is 98.1 %, and with 95 % confidence between "
        "94.6 % and 99.4 %; its test F1 is 0.981, between"
    ) in text
    assert "160 test images: models closer than about 4 points cannot be told apart." in text


def test_the_page_has_a_section_for_everything_a_run_knows(flowers: RunDir) -> None:
    expected = ["choice", "schedule", "curves", "metrics", "confusion", "mistakes", "data", "problems", "epochs"]
    assert [*expected, "settings", "repeat"] == [found["id"] for found in Page(flowers.report).all("h2")]


def test_the_page_needs_nothing_from_elsewhere(pets: RunDir) -> None:
    page = Page(pets.report)
    assert [] == [value for value in page.values("src", "srcset", "poster", "data", "action") if value[:5] != "data:"]
    assert [] == [v for v in page.values("href", "xlink:href") if not v.startswith(("#", "data:,"))]
    assert not any(word in style for style in page.styles for word in ("url(", "@import"))
    assert "http" not in pets.report.read_text().replace("http-equiv", "")
    assert [] == page.all("script")


def test_the_page_is_well_formed_and_readable_to_a_screen_reader(flowers: RunDir) -> None:
    page = Page(flowers.report)
    assert ([], []) == (page.unbalanced, page.open)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set() == {value.removeprefix("#") for value in page.values("href") if value[:1] == "#"} - set(ids)
    assert set() == set(page.values("aria-labeledby")) - set(ids)
    assert all(found.get("alt") for found in page.all("img"))
    assert all(found["role"] == "img" and found["aria-label"] for found in page.all("svg"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(found.get("scope") in {"row", "col"} for found in page.all("th"))


def test_figures_take_their_colours_from_the_page(pets: RunDir) -> None:
    styles = " ".join(
        found.get("style", "") for tag, found in Page(pets.report).elements if tag in {"path", "text", "use"}
    )
    assert "var(--blue)" in styles
    assert "#" not in styles.replace("url(#", "")


def test_probe_and_fine_tuning_stand_beside_each_other_with_the_choice(pets: RunDir) -> None:
    text = Page(pets.report).text
    assert "Frozen probe 0.969" in text
    assert "Fine-tuning ✓ chosen 0.981" in text
    assert "The models were compared image by image on the validation set." in text


def test_a_kept_probe_is_compared_with_the_fine_tuned_model_it_beat(pets: RunDir) -> None:
    named = RunEvaluation.from_dict(read_json(pets.evaluation)).named
    tuned, probe = named["test"], named["probe_test"]
    kept = {"test": probe, "probe_test": probe, "finetune_test": tuned}
    expected = [("Frozen probe", True, probe), ("Fine-tuning", False, tuned)]
    found = rivals(RunEvaluation(kept, Choice("probe")))
    assert expected == [(rival.name, rival.chosen, rival.scores) for rival in found]


def test_the_candidates_are_a_table_and_a_kept_one_of_them_has_its_scores(pets: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    candidates = (
        Candidate("probe", 0.25, 0.15, 0.05),
        Candidate("finetune", 0.2, 0.1, 0.02),
        Candidate("ema", 0.11, 0.01, 0.0125),
        Candidate("interpolated-0.5", 0.1, 0.0, 0.0),
    )
    named = RunEvaluation.from_dict(read_json(run.evaluation)).named
    kept = RunEvaluation({**named, "finetune_test": named["probe_test"]}, Choice("ema", -0.05, 0.03, candidates))
    write_json(run.evaluation, kept.to_dict())
    text = Page(write_report(run)).text
    assert "The moving average of the fine-tuned weights ✓ chosen 0.110 0.0100 ± 0.0125" in text
    assert "The mean of 50 % fine-tuned and 50 % probe weights 0.100 0.0000 ± 0.0000" in text
    assert "within one standard error of the lowest" in text
    assert [
        ("Frozen probe", False),
        ("Fine-tuning", False),
        ("The moving average of the fine-tuned weights", True),
    ] == [(rival.name, rival.chosen) for rival in rivals(kept)]


@pytest.mark.parametrize("skip", [True, False])
def test_what_the_probe_decided_is_told(skip: bool, pets: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    write_json(run.model, {**read_json(run.model), "decision": {"skip": skip, "reason": "near the features"}})
    if skip:
        write_json(run.probe, ProbeResult({"common": 1.0}, 0.1, 0.9, 0.9).to_dict())
        write_text(run.history, "")
        values = {name: value for name, value in read_json(run.evaluation).items() if name == "test"}
        write_json(run.evaluation, values)
    text = Page(write_report(run)).text
    assert "Near the features." in text
    assert skip == ("On the frozen features of resnet50, a linear classifier was fitted on" in text)
    assert "No epoch has finished yet" not in text


def test_mistakes_are_the_24_most_confident_with_the_rest_counted(flowers: RunDir) -> None:
    text = Page(flowers.report).text
    shown = [float(share) for share in re.findall(r"guess \w+ ([\d.]+) %", text)]
    assert 24 == len(shown)
    assert sorted(shown, reverse=True) == shown
    assert (
        "39 test images were misclassified; here are the 24 the model was surest of, and 15 more are left out." in text
    )
    assert 24 == len([found for found in Page(flowers.report).all("img") if found["src"].startswith("data:image/jpeg")])


def test_long_lists_are_cut_and_say_how_much_is_left_out(pets: RunDir) -> None:
    text = Page(pets.report).text
    assert "23 images present more than once" in text
    assert "a_19 (copy).jpg" in text
    assert "a_20 (copy).jpg" not in text
    assert "3 images more are left out here." in text


def test_what_is_wrong_with_the_data_is_named(pets: RunDir) -> None:
    text = Page(pets.report).text
    assert "train/cats/broken 1.jpg the file is cut short (41 of 812 bytes)" in text
    assert "train/cats/x.jpg labeled cats · train/dogs/x.jpg labeled dogs" in text
    assert "the training set has only 24 images of cats" in text


def test_a_copied_run_gives_the_same_page_again(pets: RunDir, tmp_path: Path) -> None:
    copy = RunDir(tmp_path / "elsewhere")
    shutil.copytree(pets.root, copy.root)
    copy.report.unlink()
    shutil.rmtree(copy.figures)
    write_report(copy)
    assert pets.report.read_bytes() == copy.report.read_bytes()
    assert (pets.figures / "curves.svg").read_bytes() == (copy.figures / "curves.svg").read_bytes()


def test_an_unfinished_run_has_a_page_that_says_what_is_not_there_yet(unfinished: RunDir) -> None:
    found = Page(write_report(unfinished))
    assert ["settings", "repeat"] == [heading["id"] for heading in found.all("h2")]
    assert "Interrupted" in found.text
    assert "The images have not been scanned and split yet." in found.text
    assert "No epoch has finished yet, so there are no learning curves." in found.text
    assert "The model has not been tested yet" in found.text


def test_a_run_that_has_only_a_status_has_a_page(tmp_path: Path) -> None:
    RunDir(tmp_path).set_status("failed", error="the loss is not finite between steps 3 and 4")
    assert "Failed: the loss is not finite between steps 3 and 4" in Page(write_report(RunDir(tmp_path))).text


def test_epochs_so_far_are_drawn_before_there_are_test_scores(unfinished: RunDir) -> None:
    write_training(unfinished)
    found = Page(write_report(unfinished))
    assert ["schedule", "curves", "epochs", "settings", "repeat"] == [head["id"] for head in found.all("h2")]
    assert "6 epochs in numbers" in found.text


def test_a_model_without_mistakes_has_no_gallery(unfinished: RunDir) -> None:
    perfect = predicted(PETS, 20, margin=60, seed=3)
    perfect.save(unfinished.predictions("test"))
    write_json(unfinished.evaluation, {"test": measure(perfect, n_boot=50).to_dict()})
    assert "No test image was misclassified." in Page(write_report(unfinished)).text


def test_a_cross_validated_run_shows_its_folds_and_their_thumbnails(unfinished: RunDir) -> None:
    pooled = predicted(PETS, 60, margin=1, seed=4)
    pooled.save(unfinished.predictions("test"))
    folds = {"f1_macro": [0.9, 0.95], "mean": 0.925, "deviation": 0.035}
    write_json(unfinished.evaluation, {"test": measure(pooled, n_boot=50).to_dict(), "folds": folds})
    for digest in pooled.hashes:
        write_bytes(unfinished.root / "fold-2" / "thumbnails" / f"{digest}.jpg", picture(0))
    unfinished.set_status("finished", folds=2)
    found = Page(write_report(unfinished))
    assert "Their test F1 by fold: 0.900 and 0.950 (mean 0.925, standard deviation 0.035)." in found.text
    assert "are in the reports of the folds, fold-1 to fold-2." in found.text
    assert len(found.all("img")) == min(24, int((pooled.predicted() != pooled.labels).sum()))


def test_hostile_names_are_shown_as_text_and_nothing_else(hostile: RunDir) -> None:
    found = Page(hostile.report)
    assert [] == found.all("script")
    assert [] == [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert {"data:image/jpeg;base64"} == {image["src"].partition(",")[0] for image in found.all("img")}
    assert [] == found.unbalanced
    assert "2 classes: <script>alert(1)</script> and quo\"te's & $x^2$\\nnext\\u202eline." in found.text
    assert "resnet50 on a 'b\\n\"><img src=x onerror=alert(2)>" in found.text


def test_the_command_keeps_a_line_break_that_is_inside_quotes(hostile: RunDir) -> None:
    assert "upcycle train 'a 'b\n\"><img src=x onerror=alert(2)>' --recipe" in html.unescape(hostile.report.read_text())


def test_a_file_name_that_is_no_text_is_shown_escaped(unfinished: RunDir) -> None:
    write_audit(unfinished, PETS)
    audit = json.loads(unfinished.audit.read_text())
    audit["quarantined"] = [{"path": "train/\udcff.jpg", "reason": "not an image"}]
    unfinished.audit.write_text(json.dumps(audit))
    assert "train/\\udcff.jpg not an image" in Page(write_report(unfinished)).text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        write_report(RunDir(tmp_path))


def test_events_of_another_kind_are_one_line(pets: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    write_text(run.events, '{"step": 3}\n')
    with pytest.raises(RunError, match="does not hold what a run writes"):
        write_report(run)


def test_a_probe_alone_is_not_said_to_be_fine_tuned(pets: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    write_json(run.config, {**read_json(run.config), "epochs": 0})
    write_json(run.evaluation, {key: value for key, value in read_json(run.evaluation).items() if key != "choice"})
    text = Page(write_report(run)).text
    assert "On the frozen features of resnet50, a linear classifier was fitted on" in text
    assert "fine-tuned on" not in text


def test_a_damaged_file_is_named(unfinished: RunDir) -> None:
    unfinished.evaluation.write_text("{")
    with pytest.raises(RunError, match=r"evaluation\.json cannot be read"):
        write_report(unfinished)


# -------------------------------------------------------------------------------- in a real browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("sample", ["pets", "flowers", "hostile"])
def test_a_browser_shows_it_all_without_scrolling_sideways_or_asking_for_anything(
    browser: Any, sample: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    run: RunDir = request.getfixturevalue(sample)
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda sent: asked.append(sent.url.partition(",")[0]))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    tab.goto(run.report.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert width == tab.evaluate("document.documentElement.scrollWidth")
    assert {run.report.as_uri()} == {url for url in asked if not url.startswith("data:")}
    assert [] == complaints
    tab.close()


def test_a_browser_draws_figures_in_the_dark_pages_colours(browser: Any, pets: RunDir) -> None:
    colours = []
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto(pets.report.as_uri())
        colours.append(tab.evaluate("getComputedStyle(document.querySelector('.plot text')).fill"))
        tab.close()
    assert ["rgb(90, 102, 114)", "rgb(157, 171, 183)"] == colours


def test_equal_images_on_both_sides_are_not_said_to_be_kept_together(unfinished: RunDir) -> None:
    write_audit(unfinished, PETS)
    audit = json.loads(unfinished.audit.read_text())
    leak, copy = ("train/a.jpg", "test/a.jpg"), ("train/b.jpg", "train/c.jpg")
    audit["findings"] = [found("leaks", leak), found("copies", leak, copy)]
    unfinished.audit.write_text(json.dumps(audit))
    text = Page(write_report(unfinished)).text
    assert "1 image in more than one split" in text
    assert "1 image present more than once, kept on one side" in text
    assert 1 == text.count("train/a.jpg")


def test_a_folder_that_is_no_run_is_told_nothing_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(RunError, match="not a run directory") as told:
        write_report(RunDir(tmp_path))
    assert "remove" not in str(told.value)


def test_a_page_names_what_was_chosen_and_no_ring_that_is_not_drawn(pets: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    assert "chose the probe, the best epoch and the model" in Page(write_report(run)).text
    write_text(run.history, "")
    text = Page(write_report(run)).text
    assert "chose the strengths of the probe" in text
    assert "ring" not in text.lower().replace("string", "").split()


def test_the_probe_is_one_line(pets: RunDir) -> None:
    expected = (
        "It has a validation loss of 0.103 and a validation accuracy of 95.0 %. "
        "Strengths of L2, by scaling of the features: common 0.1, each 0.01."
    )
    assert expected in Page(pets.report).text


def test_a_probe_of_several_stages_names_them_and_ridge_apart(pets: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    probe = read_json(run.probe)
    assert isinstance(probe, dict)
    strengths = {**probe["strengths"], "ridge": 10.0}
    write_json(run.probe, {**probe, "strengths": strengths, "stages": 2, "losses": [0.3, 0.2, 0.25]})
    expected = (
        "It reads the last 2 stages of the network; with the last one, the last two and so on, held-out losses are "
        "0.300, 0.200, 0.250. "
        "Strengths of L2, by scaling of the features: common 0.1, each 0.01; of ridge regression: 10."
    )
    assert expected in Page(write_report(run)).text


def test_a_head_trained_by_an_earlier_version_is_left_out(unfinished: RunDir) -> None:
    write_training(unfinished, WITH_HEAD)
    found = Page(write_report(unfinished))
    assert "6 epochs in numbers" in found.text
    assert "head" not in found.text.lower()


def test_a_run_that_failed_is_not_being_fine_tuned(pets: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    run.evaluation.unlink()
    run.set_status("failed", error="no")
    assert "was being fine-tuned on" in Page(write_report(run)).text
    run.set_status("running")
    assert "is being fine-tuned on" in Page(write_report(run)).text


def test_a_cross_validation_under_way_says_what_is_missing(unfinished: RunDir) -> None:
    write_json(unfinished.config, {"folds": 5})
    assert "Not all of the 5 folds have been trained yet" in Page(write_report(unfinished)).text


def test_the_settings_of_a_page_name_no_home(pets: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    write_json(run.config, {**read_json(run.config), "data": "/home/alice/photos", "weights": "/home/alicent/w"})
    text = Page(write_report(run)).text
    assert "~/photos" in text
    assert "/home/alicent/w" in text
    assert "/home/alice/" not in text


def test_each_folder_of_a_path_stands_by_itself_whatever_its_letters_direction(unfinished: RunDir) -> None:
    write_audit(unfinished, PETS)
    audit = json.loads(unfinished.audit.read_text())
    audit["quarantined"] = [{"path": "test/כלב/חתול/1.jpg", "reason": "not an image"}]
    unfinished.audit.write_text(json.dumps(audit))
    written = write_report(unfinished).read_text(encoding="utf-8")
    assert "<bdi>test/</bdi><wbr><bdi>כלב/</bdi><wbr><bdi>חתול/</bdi><wbr><bdi>1.<wbr>jpg</bdi>" in written


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_for_a_status_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "status.json")
    with pytest.raises(RunError, match="no regular file"):
        write_report(RunDir(tmp_path))


def test_a_report_is_made_without_torch(pets: RunDir, tmp_path: Path) -> None:
    run = shutil.copytree(pets.root, tmp_path / "run")
    code = (
        "import sys; from upcycle.cli import main; code = main(['report', sys.argv[1]]);"
        "print(code, {'torch', 'timm', 'torchvision', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert [f"{run / 'report.html'}", "0 set()"] == done.stdout.splitlines()


def test_evaluations_of_earlier_versions_are_read(pets: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    values = read_json(run.evaluation)
    for name in ("test", "val", "probe_test"):
        values[name]["says"] = values[name].pop("resolution")
    values["choice"] = {"chosen": "finetune", "says": "kept", "mean_difference": -0.1, "standard_error": None}
    write_json(run.evaluation, values)
    text = Page(write_report(run)).text
    assert "160 test images: models closer than about 4 points cannot be told apart." in text
    assert "Fine-tuning was chosen" in text


# --------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize(("temperature", "panels"), [(2.0, 2), (1.0, 1)])
def test_the_page_has_the_temperature_and_what_it_changed(
    pets: RunDir, tmp_path: Path, temperature: float, panels: int
) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    held = {name: scaled(read_predictions(run.predictions(name)), 1 / temperature) for name in ("val", "test")}
    known = calibration_of(held, temperature)
    write_json(run.evaluation, {**read_json(run.evaluation), "calibration": asdict(known)})
    text = Page(write_report(run)).text
    after, before = (percent(one["test"].value) for one in (known.after, known.before))
    assert f"Temperature {temperature:g}: expected calibration error of test images {after}" in text
    assert (f"without it {before}" in text) == (panels == 2)
    assert panels == (run.figures / "reliability.svg").read_text().count("probability of the answer")


def test_the_page_of_a_run_without_a_temperature_has_no_section_of_it(pets: RunDir) -> None:
    assert "calibration" not in Page(pets.report).text.lower()


def test_a_deadline_and_an_early_end_are_told(pets: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(pets.root, tmp_path / "run"))
    assert "--plan" not in Page(write_report(run)).text
    changes = (
        Budget(600.0, 160, lean=True, freeze="auto", steps=40, reason="5 min training"),
        Replan(12, 30, "slow"),
        Replan(14, 28, "slower: 28 updates in all, not 30"),
        Ending(20, 24, "1-sqrt", "finished early on request"),
    )
    write_lines(run.events, changes_to_dicts(changes))
    text = Page(write_report(run)).text
    for told in (
        "A deadline of 10 min 0 s: images of 160 px, one view, no averaged weights; 5 min training.",
        "Planned again for the pace 2 times, last at update 14: slower: 28 updates in all, not 30.",
        "From update 20 on the rate falls, to end after 24 updates in all: finished early on request.",
        "To repeat that too, add --plan with its plan.jsonl, and leave --deadline out.",
    ):
        assert told in text
