import re
from pathlib import Path
from typing import Any

import pytest

import upcycle
from tests.conftest import draw, write_classes
from tests.reporting.pages import Page
from upcycle.audit.findings import Audit
from upcycle.audit.proposals import Entry
from upcycle.reporting.progress import Silent
from upcycle.reporting.scan_page import ALONE, IN_SET, SETS, write_scan

HOSTILE = "<script>alert(1)</script>"


def finding(kind: str, groups: list[list[dict[str, str]]], **more: Any) -> dict[str, Any]:
    said = {"effect": "it flatters", "advice": "look", "serious": True, "names": []}
    return {"kind": kind, "count": len(groups), "title": f"{len(groups)} of {kind}", "groups": groups, **said, **more}


def image(path: str, note: str = "", label: str = "across") -> dict[str, str]:
    return {"path": path, "label": label, "split": "train", "note": note}


def audit_of(findings: list[dict[str, Any]], data: str = "/photos") -> Audit:
    values = {
        "images": 40,
        "classes": {"across": 20, "down": 20},
        "warnings": [],
        "splits": {name: {"across": 5, "down": 5} for name in ("train", "val", "test")},
        "quarantined": [],
        "findings": findings,
        "data": data,
        "created": "2026-11-24 12:00:00 UTC",
        "command": f"upcycle scan '{data}' --out runs/x",
        "upcycle": "0.1.0",
    }
    return Audit.from_dict(values)


def page_of(
    folder: Path, findings: list[dict[str, Any]], entries: tuple[Entry, ...] = (), data: str = "/photos"
) -> Page:
    written = write_scan(
        folder / "scan.html",
        audit_of(findings, data),
        entries,
        root=folder / "data",
        train="upcycle train /photos --quarantine runs/x/quarantine.csv",
        grouped="upcycle train runs/x/grouped.csv",
    )
    return Page(written)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a folder with a conflict, a tiny image and a file that cannot be used."""
    folder = tmp_path_factory.mktemp("scanned")
    data = write_classes(folder / "data", {"across": 20, "down": 20})
    (data / "down" / "twin.png").write_bytes((data / "across" / "000.png").read_bytes())
    draw(1, 60).resize((9, 9)).save(data / "down" / "tiny & <b>.png")
    (data / "across" / "empty.png").write_bytes(b"")
    upcycle.scan(data, out=folder / "scan", show=Silent())
    return folder / "scan" / "scan.html"


def test_the_page_shows_every_finding_with_its_pictures(scanned: Path) -> None:
    page = Page(scanned)
    assert [] == page.unbalanced
    assert [] == page.open
    for words in (
        "1 image with different labels",
        "1 image smaller than 24 pixels",
        "1 file of zero bytes",
    ):
        assert words in page.text
    pictures = [one["src"] for one in page.all("img")]
    assert 5 == len(pictures)  # the twins twice: in conflict, and copies
    assert all(source.startswith("data:image/jpeg;base64,") for source in pictures)
    assert "down/tiny & <b>.png" in page.text


def test_the_page_needs_and_asks_for_nothing_else(scanned: Path) -> None:
    page = Page(scanned)
    assert [] == page.all("script")
    assert [] == [value for value in page.values("src", "href") if not value.startswith(("data:", "#"))]
    assert "default-src 'none'" in scanned.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import", " ".join(page.styles))


def test_names_are_only_text_whatever_they_are(tmp_path: Path) -> None:
    groups = [[image(f"{HOSTILE}.png", HOSTILE, HOSTILE), image('a"b\n\u202e.png')]]
    findings = [finding("near", groups, names=[HOSTILE], title=HOSTILE)]
    page = page_of(tmp_path, findings, (Entry(HOSTILE, HOSTILE),), data=f"/x/{HOSTILE}")
    assert [] == page.all("script")
    assert HOSTILE in page.text
    assert "\u202e" not in page.text


def test_long_findings_are_cut_with_a_count(tmp_path: Path) -> None:
    alone = [[image(f"a/{at}.png")] for at in range(ALONE + 5)]
    sets = [[image(f"b/{at}-{copy}.png") for copy in range(IN_SET + 2)] for at in range(SETS + 3)]
    page = page_of(tmp_path, [finding("grey", alone), finding("copies", sets)])
    assert f"5 more of {ALONE + 5} are left out here and are in audit.json." in page.text
    assert f"3 more of {SETS + 3} are left out here and are in audit.json." in page.text
    assert SETS == page.text.count("and 2 images more")
    assert ALONE + SETS * IN_SET == page.text.count("no picture")


def test_a_page_without_findings_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, [])
    assert "Nothing was found" in page.text
    assert "No file is proposed to be excluded." in page.text


@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_does_not_scroll_sideways(scanned: Path, browser: Any, width: int) -> None:
    view = browser.new_page(viewport={"width": width, "height": 800})
    view.goto(scanned.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    view.close()
