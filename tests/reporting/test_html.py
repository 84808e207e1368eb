"""Thumbnails as data, and what a notebook shows: complete and escaped fragments of HTML."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.reporting.pages import picture
from tests.reporting.values import PETS, history
from upcycle.audit.findings import Audit
from upcycle.evaluation.results import RunEvaluation
from upcycle.history import History
from upcycle.reporting.html import (
    LARGEST_THUMBNAIL,
    prediction_fragment,
    run_fragment,
    scan_fragment,
    thumbnail_address,
)
from upcycle.rundir import write_bytes


@pytest.mark.parametrize("name", ["../secret", "a" * 63 + "G", ""])
def test_only_a_content_hash_names_a_thumbnail(tmp_path: Path, name: str) -> None:
    write_bytes(tmp_path / f"{name}.jpg", picture(0))
    (tmp_path / "thumbnails").mkdir()
    assert thumbnail_address([tmp_path / "thumbnails"], name) is None


def test_a_thumbnail_that_is_too_large_for_one_is_left_out(tmp_path: Path) -> None:
    write_bytes(tmp_path / f"{'a' * 64}.jpg", bytes(LARGEST_THUMBNAIL + 1))
    write_bytes(tmp_path / f"{'b' * 64}.jpg", b"small")
    assert (None, "data:image/jpeg;base64,c21hbGw=") == (
        thumbnail_address([tmp_path], "a" * 64),
        thumbnail_address([tmp_path], "b" * 64),
    )


def test_a_link_in_a_strangers_run_directory_is_no_thumbnail(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    write_bytes(secret, b"secret")
    (tmp_path / f"{'c' * 64}.jpg").symlink_to(secret)
    assert thumbnail_address([tmp_path], "c" * 64) is None


# ------------------------------------------------------------------------------------- in a notebook

HOSTILE = "<script>alert(1)</script>\u202e"
FINDING = {"kind": "near", "count": 2, "effect": "it flatters", "advice": "look", "serious": True, "names": []}
AUDIT = {"images": 40, "classes": {"a": 20, "b": 20}, "splits": {}, "data": f"/{HOSTILE}"}
AUDIT |= {name: [] for name in ("quarantined", "duplicates", "conflicts", "leaks", "warnings")}


class Parsed(HTMLParser):
    """The elements and the text of a fragment, all of which are closed."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(fragment)
        self.close()
        assert [] == self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag != "br":
            self.open.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())


def test_a_run_is_its_curves_and_its_metrics() -> None:
    found = Parsed(run_fragment("runs/a", history(3), RunEvaluation({"test": PETS, "val": PETS})))
    assert 1 == found.tags.count("svg")
    assert "Metrics of 160 test images" in found.text
    assert "F1 (macro) 0.700 0.650 to 0.750" in found.text


def test_a_run_that_has_just_begun_is_its_name() -> None:
    found = Parsed(run_fragment(HOSTILE, History(), None))
    assert ["div", "p", "b"] == found.tags
    assert "<script>alert(1)</script>\\u202e" == found.text


def test_a_prediction_is_a_bar_for_each_of_the_five_most_probable_classes() -> None:
    found = Parsed(prediction_fragment({HOSTILE: 0.75, **{f"class {at}": 0.05 for at in range(6)}}))
    assert found.text.startswith("<script>alert(1)</script>\\u202e 75.0 % class 0 5.0 %")
    assert (5, 0) == (found.tags.count("tr"), found.tags.count("script"))
    assert found.text.endswith("2 classes left out")


def test_a_scan_is_its_findings() -> None:
    audit = Audit.from_dict({**AUDIT, "findings": [{**FINDING, "title": f"2 {HOSTILE}", "groups": []}]})
    found = Parsed(scan_fragment(audit))
    assert "40 images of 2 classes, 1 finding" in found.text
    assert "2 <script>alert(1)</script>\\u202e (changes the result) It flatters. Look." in found.text
    assert "script" not in found.tags
