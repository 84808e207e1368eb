import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.reporting.comparisons import PETS, answers, read_example, renamed, without_results, write_example
from tests.reporting.pages import Page, picture
from upcycle.errors import RunError
from upcycle.evaluation.predictions import Predictions
from upcycle.reporting.comparison import write_comparison
from upcycle.reporting.disagreements import SHOWN, opinion, sides
from upcycle.rundir import RunDir, write_bytes, write_json, write_text

HOSTILE = {
    "simple-cnn": "<script>alert(1)</script>",
    "probe": "quo\"te's & $x^2$\nnext\u202eline",
    "constant": "x" * 300,
    "constant-tuned": "猫" * 80,
    "classic": "<img src=x onerror=alert(2)>",
}
CLASSES = ("<b>bold</b>", 'quo"te\nnext\u202eline')
SECTIONS = ["ladder", "real", "curves", "cost", "disagreements", "options", "tuned", "methods", "repeat"]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_example(tmp_path_factory.mktemp("six"))
    write_comparison(folder)
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = "a 'b\n\"><img src=x onerror=alert(3)>"
    folder = write_example(tmp_path_factory.mktemp("hostile"), classes=CLASSES, data=data, seeds=(0,), n=200)
    values = renamed(read_example(folder), HOSTILE)
    values["rungs"][0]["failed"] = [{"seed": 7, "reason": "<script>alert(4)</script> of 'x'"}]
    values["options"] |= {"<i>option</i>": {"probe": "<u>value</u>", "classic": "\u202e"}}
    write_json(folder / "comparison.json", values)
    write_comparison(folder)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two rungs of one seed each: the smallest comparison there is."""
    return write_example(tmp_path / "two", ("probe", "default"), seeds=(0,), n=60)


def page_of(folder: Path, **changes: Any) -> Page:
    """The page after some values of comparison.json were replaced."""
    write_json(folder / "comparison.json", read_example(folder) | changes)
    return Page(write_comparison(folder))


def read_page(folder: Path) -> Page:
    return Page(folder / "comparison.html")


# --------------------------------------------------------------------------------------- what it says


def test_a_page_comes_with_every_figure_as_svg_and_png(six: Path) -> None:
    expected = [f"{name}.{ending}" for name in ("cost", "curves", "ladder") for ending in ("png", "svg")]
    assert expected == sorted(file.name for file in (six / "figures").iterdir())


def test_the_path_of_the_page_is_returned(two: Path) -> None:
    assert two / "comparison.html" == write_comparison(two)


def test_the_page_has_a_section_for_everything_a_comparison_knows(six: Path) -> None:
    assert SECTIONS == [found["id"] for found in read_page(six).all("h2")]


def test_the_headline_is_what_the_statistics_say(six: Path) -> None:
    values, text = read_example(six), read_page(six).text
    assert text.startswith("What each choice bought on cats_dogs · upcycle")
    assert all(said in text for said in (*values["says"], values["recommendation"]["says"]))
    assert "Steps that are real 4 of 5 3 gains, 1 loss" in text


def test_a_row_of_the_table_has_scores_gains_and_costs(six: Path) -> None:
    text = read_page(six).text
    assert (
        "Frozen probe 3 seeds 98.3 97.1 to 99.0 0.983 0.970 to 0.990 0.003 +12.1 ▲ a real gain +12.1 0 1 min 14 s 22 M"
    ) in text
    assert "28 min 15 s + 1 h 21 min tuning" in text
    assert "upcycle's default recommended 3 seeds" in text
    assert "+13.3 +10.6 to +16.1 ▲ real 3 " in text  # over the first rung


def test_each_step_is_told_in_words_with_its_verdict(six: Path) -> None:
    text = read_page(six).text
    steps = [pair for pair in read_example(six)["pairs"] if "step" in pair["kinds"]]
    assert 5 == len(steps)
    assert all(pair["says"] in text for pair in steps)
    assert "▼ a real loss Constant rate lost 2.3 points of F1 against Frozen probe" in text


def test_the_two_questions_are_kept_apart(six: Path) -> None:
    text = read_page(six).text
    models, recipe = text.index("These trained models, on new images"), text.index("The recipe, trained again")
    assert "Simple CNN → Frozen probe +12.1 +9.6 to +14.7" in text[models:recipe]
    assert "0 / 62, p < 0.0001" in text[models:recipe]
    assert "not answerable: 3 seeds in common; 5 or more are needed" in text[recipe:]


def test_a_recipe_that_was_trained_often_enough_has_an_answer(six: Path, tmp_path: Path) -> None:
    values = read_example(six)
    for pair in values["pairs"]:
        pair["again"] |= {"answerable": True, "reason": None, "interval": [0.012, 0.03], "df": 4}
    write_json(tmp_path / "comparison.json", values)
    assert "+12.1 +1.2 to +3.0 4 1.3 0.6 better again" in Page(write_comparison(tmp_path)).text


def test_pairs_that_are_no_steps_stand_apart_with_both_ps(six: Path) -> None:
    text = read_page(six).text
    apart = text[text.index("Each rung against the first and the best") : text.index("The recipe, trained again")]
    assert "Simple CNN → upcycle's default +13.3" in apart
    assert "F1 accuracy p corrected" in apart


def test_only_options_that_differ_are_listed_those_with_one_value_apart(six: Path, tmp_path: Path) -> None:
    values = read_example(six)
    values["options"] = {"lr": {"constant": 1e-4, "default": 1e-3}, "decay": {"classic": 0.8}}
    write_json(tmp_path / "comparison.json", values)
    text = Page(write_comparison(tmp_path)).text
    assert "lr – – 0.0001 – – 0.001" in text
    assert "1 option that only some rungs make use of with one value" in text
    assert "decay – – – – 0.8 –" in text


def test_the_rates_that_were_tried_are_listed_and_the_one_taken_marked(six: Path) -> None:
    assert "1e-5 0.0848 3e-5 0.0698 ✓ taken 1e-4 0.0978 3e-4 0.3138" in read_page(six).text


def test_the_command_to_repeat_it_is_there(six: Path) -> None:
    assert read_example(six)["command"] in html.unescape((six / "comparison.html").read_text())


def test_runs_that_failed_are_named_with_their_reason(two: Path) -> None:
    values = read_example(two)
    values["rungs"][1]["failed"] = [{"seed": 2, "reason": "the loss is not finite between steps 4 and 5"}]
    text = page_of(two, rungs=values["rungs"]).text
    assert "upcycle's default, seed 2: the loss is not finite between steps 4 and 5" in text
    assert "1 seed, 1 failed" in text


def test_a_rung_without_any_finished_run_keeps_its_row(six: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "comparison.json", without_results(read_example(six), "default") | {"recommendation": None})
    text = Page(write_comparison(tmp_path)).text
    assert "upcycle's default 0 seeds, 3 failed no run finished" in text
    assert "Recommended takes" not in text


def test_unknown_numbers_are_dashes(two: Path) -> None:
    values = read_example(two)
    for rung in values["rungs"]:
        rung |= {"trained_parameters": None, "parameters": None}
        for name in ("accuracy", "f1_macro"):
            rung[name] |= {"low": None, "high": None, "spread": None}
    for pair in values["pairs"]:
        for name in ("difference", "f1_difference"):
            pair[name] |= {"interval": None, "p": None}
        pair |= {"mcnemar": None, "holm": None, "images_needed": None}
    gone = dict.fromkeys(("data", "command", "created", "recommendation", "environment"))
    found = page_of(two, **(values | gone))
    assert "Frozen probe 1 seed 100.0 1.000 – – – 0 1 min 11 s –" in found.text
    assert ["repeat"] == [name for name in SECTIONS if name not in {head["id"] for head in found.all("h2")}][-1:]


# -------------------------------------------------------------------------------------- disagreements


def test_disagreements_are_shown_with_their_pictures_and_counted(six: Path) -> None:
    found = read_page(six)
    assert "Simple CNN → Frozen probe 57 images right by the second alone, 0 by the first" in found.text
    assert "49 images more are left out here." in found.text
    shown = [image for image in found.all("img") if image["src"].startswith("data:image/jpeg;base64,")]
    assert SHOWN <= len(shown) <= 10 * SHOWN
    assert all(image["alt"] for image in shown)


def models(folder: Path, name: str, probabilities: list[list[float]]) -> list[Path]:
    """Runs of one rung: the probability that each seed's model gives to 'dogs', for three images: cat, dog, dog."""
    paths = []
    for seed, row in enumerate(probabilities):
        logits = np.log(np.array(row) / (1 - np.array(row)))[:, None].astype(np.float32)
        names = ("cat.jpg", "dog.jpg", "dog 2.jpg")
        made = Predictions(PETS, names, tuple("abc"), ("",) * 3, np.array([0, 1, 1]), logits)
        paths.append(folder / f"{name}-{seed}")
        made.save(RunDir(paths[-1]).predictions("test"))
    return paths


def test_an_image_counts_where_one_is_right_and_the_other_wrong_with_seeds_averaged(tmp_path: Path) -> None:
    one = opinion(models(tmp_path, "one", [[0.1, 0.2, 0.6], [0.2, 0.6, 0.7], [0.3, 0.3, 0.3]]))
    two = opinion(models(tmp_path, "two", [[0.2, 0.9, 0.8], [0.1, 0.9, 0.9], [0.9, 0.2, 0.7]]))
    assert one is not None
    assert two is not None
    found = sides(one, two)
    assert found is not None
    assert ([], ["dog.jpg"]) == (list(found.only_first.items), [item.path for item in found.only_second.items])
    (item,) = found.only_second.items
    assert ("dogs", "cats") == (item.label, item.said)
    assert (1.9 / 3, 2.0 / 3) == pytest.approx((item.wrong, item.right), abs=1e-6)


def test_two_seeds_that_disagree_go_by_their_average(tmp_path: Path) -> None:
    one = opinion(models(tmp_path, "one", [[0.1, 0.2, 0.9], [0.1, 0.7, 0.9]]))
    two = opinion(models(tmp_path, "two", [[0.1, 0.9, 0.9]]))
    assert one is not None
    assert two is not None
    found = sides(one, two)
    assert found is not None
    assert (0, ["dog.jpg"]) == (found.only_first.total, [item.path for item in found.only_second.items])


def test_the_surest_mistake_comes_first(tmp_path: Path) -> None:
    one = opinion(models(tmp_path, "one", [[0.6, 0.4, 0.01]]))
    two = opinion(models(tmp_path, "two", [[0.1, 0.9, 0.9]]))
    assert one is not None
    assert two is not None
    found = sides(one, two)
    assert found is not None
    assert "dog 2.jpg" == found.only_second.items[0].path
    assert 3 == found.only_second.total


def test_runs_on_other_images_are_not_compared(tmp_path: Path) -> None:
    answers(2.0, 0, n=40).save(RunDir(tmp_path / "a").predictions("test"))
    answers(2.0, 0, n=41).save(RunDir(tmp_path / "b").predictions("test"))
    one, two = opinion([tmp_path / "a"]), opinion([tmp_path / "b"])
    assert one is not None
    assert two is not None
    assert sides(one, two) is None


def test_runs_that_list_their_images_in_another_order_are_matched(tmp_path: Path) -> None:
    made = answers(1.0, 0, n=80)
    turned = Predictions(
        made.classes, made.paths[::-1], made.hashes[::-1], made.groups, made.labels[::-1], made.logits[::-1]
    )
    made.save(RunDir(tmp_path / "a").predictions("test"))
    turned.save(RunDir(tmp_path / "b").predictions("test"))
    one, two = opinion([tmp_path / "a"]), opinion([tmp_path / "b"])
    assert one is not None
    assert two is not None
    found = sides(one, two)
    assert found is not None
    assert (0, 0) == (found.only_first.total, found.only_second.total)


# ------------------------------------------------------------------------------- what is not there


def test_vanished_runs_cost_their_curves_and_pictures_alone(six: Path, tmp_path: Path) -> None:
    shutil.copy(six / "comparison.json", tmp_path)
    found = Page(write_comparison(tmp_path))
    expected = [name for name in SECTIONS if name not in {"curves", "disagreements"}]
    assert expected == [head["id"] for head in found.all("h2")]
    assert not (tmp_path / "figures" / "curves.svg").exists()
    assert "Curves and disagreements are without simple-cnn-seed-0, " in found.text
    assert "Curves and disagreements are without" not in read_page(six).text


def test_a_damaged_run_costs_its_own_curves_and_pictures_alone(two: Path) -> None:
    run = RunDir(two / "runs" / "probe-seed-0")
    write_text(run.history, "{\n{}\n")
    write_text(run.predictions("test"), "no such columns\n")
    found = Page(write_comparison(two))
    assert "curves" in {head["id"] for head in found.all("h2")}
    assert "disagreements" not in {head["id"] for head in found.all("h2")}


@pytest.mark.parametrize("path", ["/nowhere/at/all", "a\0b", "", "../../..", "x" * 5000])
def test_any_path_of_a_run_is_survived(two: Path, path: str) -> None:
    values = read_example(two)
    values["rungs"][0]["runs"][0]["path"] = path
    assert "ladder" in {head["id"] for head in page_of(two, rungs=values["rungs"]).all("h2")}


def test_runs_may_lie_anywhere(two: Path, tmp_path: Path) -> None:
    values = read_example(two)
    shutil.move(two / "runs", tmp_path / "elsewhere")
    for rung in values["rungs"]:
        for run in rung["runs"]:
            run["path"] = str(tmp_path / "elsewhere" / Path(run["path"]).name)
    assert {"curves", "disagreements"} <= {head["id"] for head in page_of(two, rungs=values["rungs"]).all("h2")}


def test_a_folder_without_a_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"comparison\.json is missing"):
        write_comparison(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"), [("{", "cannot be read"), ("[]", "does not hold"), ('{"rungs": []}', "does not hold")]
)
def test_a_damaged_comparison_is_one_error(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(RunError, match=says):
        write_comparison(tmp_path)


# ---------------------------------------------------------------------------------- anyone's names


def test_hostile_names_are_shown_as_text_and_nothing_else(hostile: Path) -> None:
    found = read_page(hostile)
    assert [] == found.all("script")
    assert [] == [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert {"data:image/jpeg;base64"} == {image["src"].partition(",")[0] for image in found.all("img")}
    assert ([], []) == (found.unbalanced, found.open)
    assert "<script>alert(1)</script>" in found.text
    assert "quo\"te's & $x^2$\\nnext\\u202eline" in found.text
    assert "seed 7: <script>alert(4)</script> of 'x'" in found.text
    assert "<i>option</i>" in found.text
    assert 'is <b>bold</b> said quo"te\\nnext\\u202eline' in found.text
    assert "\u202e" not in (hostile / "comparison.html").read_text()


def test_tables_hold_long_names_cut_in_their_middle(hostile: Path) -> None:
    tables = re.findall("<table.*?</table>", (hostile / "comparison.html").read_text(), re.DOTALL)
    assert any("xxx…xxx" in table for table in tables)
    assert not any("x" * 60 in table for table in tables)


def test_the_page_needs_nothing_from_elsewhere(six: Path) -> None:
    page = read_page(six)
    assert [] == [value for value in page.values("src", "srcset", "poster", "data", "action") if value[:5] != "data:"]
    assert [] == [v for v in page.values("href", "xlink:href") if not v.startswith(("#", "data:,"))]
    assert not any(word in style for style in page.styles for word in ("url(", "@import"))
    assert "http" not in (six / "comparison.html").read_text().replace("http-equiv", "")
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_page_is_well_formed_and_readable_to_a_screen_reader(six: Path) -> None:
    page = read_page(six)
    assert ([], []) == (page.unbalanced, page.open)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set() == {value.removeprefix("#") for value in page.values("href") if value[:1] == "#"} - set(ids)
    assert set() == set(page.values("aria-labelledby")) - set(ids)
    assert all(found["role"] == "img" and found["aria-label"] for found in page.all("svg"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(found.get("scope") in {"row", "col"} for found in page.all("th"))


def test_a_thumbnail_is_read_by_its_content_hash_alone(two: Path) -> None:
    write_bytes(two / "secret.jpg", picture(0))
    path = RunDir(two / "runs" / "probe-seed-0").predictions("test")
    path.write_text(path.read_text().replace(answers(1.95, 0).hashes[0], "../../../secret"))
    before = json.dumps(sorted(image["src"] for image in Page(write_comparison(two)).all("img")))
    (two / "secret.jpg").unlink()
    assert before == json.dumps(sorted(image["src"] for image in Page(write_comparison(two)).all("img")))


def test_writing_it_again_gives_the_same_page(six: Path) -> None:
    before = (six / "comparison.html").read_bytes()
    assert before == write_comparison(six).read_bytes()


# -------------------------------------------------------------------------------- in a real browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("sample", ["six", "hostile"])
def test_a_browser_shows_it_all_without_scrolling_sideways_or_asking_for_anything(
    browser: Any, sample: str, width: int, scheme: str, request: pytest.FixtureRequest
) -> None:
    address = (request.getfixturevalue(sample) / "comparison.html").as_uri()
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda sent: asked.append(sent.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    tab.goto(address)
    tab.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert width == tab.evaluate("document.documentElement.scrollWidth")
    assert {address} == {url for url in asked if not url.startswith("data:")}
    assert [] == complaints
    tab.close()


def test_no_table_of_the_page_scrolls_on_a_wide_screen(browser: Any, six: Path) -> None:
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    tab.goto((six / "comparison.html").as_uri())
    wide = "[...document.querySelectorAll('.scroll:has(table)')].filter(box => box.scrollWidth > box.clientWidth)"
    assert [] == tab.evaluate(f"{wide}.map(box => box.getAttribute('aria-label'))")
    tab.close()
