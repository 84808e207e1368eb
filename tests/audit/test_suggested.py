import csv
import io
from pathlib import Path

import numpy as np

from tests.data.made import made
from upcycle.audit.findings import Finding, Image
from upcycle.audit.quarantine import Entry
from upcycle.audit.suggested import entries, write_grouped


def finding(kind: str, *groups: tuple[Image, ...]) -> Finding:
    return Finding(kind, "one", "many", "", "", groups)


ROSE, TULIP = Image("rose/1.jpg", "rose", "train"), Image("tulip/1.jpg", "tulip", "test")


def test_conflicting_copies_are_all_excluded_and_near_ones_left_to_decide() -> None:
    other = Image("rose/2.jpg", "rose", "val")
    found = [finding("near", (ROSE, other)), finding("conflicts", (ROSE, TULIP))]
    assert [
        Entry("rose/1.jpg", "the same image as tulip/1.jpg (tulip, test)", True),
        Entry("tulip/1.jpg", "the same image as rose/1.jpg (rose, train)", True),
        Entry("rose/2.jpg", "nearly the same picture as rose/1.jpg (rose, train)", False),
    ] == entries(found)


def test_files_that_cannot_be_used_and_blank_ones_are_excluded() -> None:
    found = [
        finding("empty", (Image("a/0.jpg", note="empty file (zero bytes)"),)),
        finding("blank", (Image("a/1.jpg", "a"),)),
        finding("grey", (Image("a/2.jpg", "a"),)),
        finding("tiny", (Image("a/3.jpg", "a", "", "4 x 4"),)),
        finding("label-errors", (Image("a/4.jpg", "a", "", "looks like b, 98 %"),)),
    ]
    assert [
        Entry("a/1.jpg", "blank", True),
        Entry("a/0.jpg", "empty file (zero bytes)", True),
        Entry("a/4.jpg", "looks like b, 98 %", False),
        Entry("a/3.jpg", "tiny: 4 x 4", False),
    ] == entries(found)


def test_one_of_each_copy_is_not_listed() -> None:
    copies = tuple(Image(f"a/{at}.jpg", "a") for at in range(3))
    assert [
        Entry("a/1.jpg", "the same image as a/0.jpg (a) and 1 more", False),
        Entry("a/2.jpg", "the same image as a/0.jpg (a) and 1 more", False),
    ] == entries([finding("copies", copies)])


def test_the_manifest_ties_copies_near_copies_and_names_in_a_chain(tmp_path: Path) -> None:
    index = made("aabbab", contents=[0, 1, 2, 3, 0, 5])  # 0 and 4 have equal bytes
    codes = np.array([-1, 7, 7, -1, -1, -1])
    write_grouped(tmp_path / "g.csv", index, [(4, 1)], codes, without={"b/0005.jpg"})
    rows = list(csv.DictReader(io.StringIO((tmp_path / "g.csv").read_text(encoding="utf-8"))))
    assert ["a", "a", "b", "b", "a"] == [row["label"] for row in rows]
    groups = [row["group"] for row in rows]
    assert 1 == len({groups[0], groups[1], groups[2], groups[4]})
    assert "" == groups[3] != groups[0]
    assert str(index.file(0)) == rows[0]["path"]
