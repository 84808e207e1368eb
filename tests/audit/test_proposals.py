import csv
import io
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.data.made import made
from upcycle.audit.findings import Finding, FlaggedImage
from upcycle.audit.proposals import (
    Entry,
    exclude,
    name_groups,
    proposed,
    read_list,
    shorter,
    write_grouped,
    write_list,
)
from upcycle.data.index import Index, index_images
from upcycle.data.listing import Quarantined
from upcycle.errors import DataError

ROOT = Path("data")


def test_a_list_is_read_back_with_what_is_to_be_excluded_first(tmp_path: Path) -> None:
    entries = [Entry("b/1.jpg", "to, decide", False), Entry('a/"odd"\r\n.jpg', "blank"), Entry("a/0.jpg", "blank")]
    write_list(tmp_path / "q.csv", entries)
    assert [entries[1], entries[2], entries[0]] == read_list(tmp_path / "q.csv")


def test_a_list_of_paths_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("path\na/0000.jpg\n", encoding="utf-8")
    assert [Entry("a/0000.jpg", "", True)] == read_list(tmp_path / "q.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\nx.jpg\n", "has no column 'path'"),
        ("", "has no column 'path'"),
        ("excluded,path\nmaybe,x.jpg\n", "row 1: excluded 'maybe' is neither yes nor no"),
        ("excluded,path\nyes,x.jpg,more\n", "line 2: not as many values as columns"),
        ("excluded,path\nyes\n", "line 2: not as many values as columns"),
        ("excluded,path\nyes,\n", "row 1: path must not be empty"),
        (",path\n0,x.jpg,more\n", "line 2: not as many values as columns"),
        ('path\n"a\n', "is not a readable CSV file"),
        ("path\n\xff", "is not a readable CSV file"),
    ],
)
def test_what_is_no_list_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_list(tmp_path / "q.csv")


def test_a_list_that_a_spreadsheet_has_stored_is_read(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("\ufeffexcluded;path;reason\nno;a/0000.jpg;blank, or so\n;;\n", encoding="utf-8")
    assert [Entry("a/0000.jpg", "blank, or so", False)] == read_list(tmp_path / "q.csv")


def test_a_path_that_begins_with_a_blank_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("excluded,path,reason\nyes, cats/blank.png,blank\n")
    assert [" cats/blank.png"] == [entry.path for entry in read_list(tmp_path / "list.csv")]


def test_a_list_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        read_list(tmp_path / "none.csv")


def test_only_rows_marked_yes_are_excluded_with_their_reason() -> None:
    index = made("ab" * 10)
    left = exclude(index, [Entry("a/0000.jpg", "blank"), Entry("b/0001.jpg", "odd", False)], "q.csv")
    assert 19 == len(left.index)
    assert [("a/0000.jpg", "excluded by q.csv: blank")] == [(file.path, file.reason) for file in left.index.quarantined]
    assert ["excluded"] == [file.kind for file in left.index.quarantined]
    assert [] == left.missing


def test_a_list_with_the_column_of_earlier_versions_is_read(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("set_aside,path\nno,a/0000.jpg\n", encoding="utf-8")
    assert [Entry("a/0000.jpg", "", False)] == read_list(tmp_path / "q.csv")


def test_a_column_without_a_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(",path\n0,a/0000.jpg\n", encoding="utf-8")
    assert [Entry("a/0000.jpg", "", True)] == read_list(tmp_path / "q.csv")


def test_a_file_elsewhere_that_cannot_be_used_may_be_listed_as_the_scan_lists_it() -> None:
    index = replace(made("ab" * 10), quarantined=(Quarantined("/far/bad.jpg", "empty"), Quarantined("../b.jpg", "")))
    left = exclude(index, [Entry("/far/bad.jpg", "empty"), Entry("../b.jpg", "")], "q.csv")
    assert (20, []) == (len(left.index), left.missing)


def test_paths_that_data_does_not_hold_are_given_back() -> None:
    index = made("ab" * 10)
    left = exclude(index, [Entry("a/none.jpg", ""), Entry("./a/../a/0000.jpg", "")], "q.csv")
    assert ["a/none.jpg"] == left.missing
    assert 19 == len(left.index)


@pytest.mark.parametrize("path", ["../other/x.jpg", "a/../../x.jpg", "/etc/passwd", ".."])
def test_a_path_that_leads_out_of_data_is_refused(path: str) -> None:
    with pytest.raises(DataError, match="which is not in data"):
        exclude(made("ab" * 10), [Entry(path, "")], "q.csv")


def test_excluding_a_whole_class_is_refused() -> None:
    entries = [Entry(f"a/{at:04}.jpg", "blank") for at in range(0, 20, 2)]
    with pytest.raises(DataError, match="class 'a' in data has no usable image"):
        exclude(made("ab" * 10), entries, "q.csv")


def finding(kind: str, *groups: tuple[FlaggedImage, ...]) -> Finding:
    return Finding(kind, "", "", "", groups)


ROSE, TULIP = FlaggedImage("rose/1.jpg", "rose", "train"), FlaggedImage("tulip/1.jpg", "tulip", "test")


def test_conflicting_copies_are_all_excluded_and_near_ones_left_to_decide() -> None:
    other = FlaggedImage("rose/2.jpg", "rose", "val")
    found = [finding("near", (ROSE, other)), finding("conflicts", (ROSE, TULIP))]
    assert [
        Entry("rose/1.jpg", "the same image as tulip/1.jpg (tulip, test)", True),
        Entry("tulip/1.jpg", "the same image as rose/1.jpg (rose, train)", True),
        Entry("rose/2.jpg", "a near-duplicate of rose/1.jpg (rose, train)", False),
    ] == proposed(found)


def test_files_that_cannot_be_used_and_blank_ones_are_excluded() -> None:
    found = [
        finding("empty", (FlaggedImage("a/0.jpg", note="empty file (zero bytes)"),)),
        finding("blank", (FlaggedImage("a/1.jpg", "a"),)),
        finding("gray", (FlaggedImage("a/2.jpg", "a"),)),
        finding("tiny", (FlaggedImage("a/3.jpg", "a", "", "4 x 4"),)),
        finding("label-errors", (FlaggedImage("a/4.jpg", "a", "", "looks like b, 98 %"),)),
    ]
    assert [
        Entry("a/1.jpg", "blank", True),
        Entry("a/0.jpg", "empty file (zero bytes)", True),
        Entry("a/4.jpg", "looks like b, 98 %", False),
        Entry("a/3.jpg", "tiny: 4 x 4", False),
    ] == proposed(found)


def test_one_of_each_copy_is_not_listed() -> None:
    copies = tuple(FlaggedImage(f"a/{at}.jpg", "a") for at in range(3))
    assert [
        Entry("a/1.jpg", "the same image as a/0.jpg (a) and 1 more", False),
        Entry("a/2.jpg", "the same image as a/0.jpg (a) and 1 more", False),
    ] == proposed([finding("copies", copies)])


# -------------------------------------------------------------------------------------- groups


def index_of(paths: list[str], groups: list[str] | None = None) -> Index:
    """An index of these paths; the class is the first letter of the path's last folder."""
    index = made("".join(path.split("/")[-2][0] for path in paths), groups=groups)
    return replace(index, paths=pa.array(paths, pa.string()))


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("patient12_003", ["patient12", "patient"]),
        ("cat.4251", ["cat"]),
        ("0013035", []),
        ("10_left", ["10"]),
        ("_x_1", ["_x"]),
        ("video3frame0012", ["video3frame", "video3", "video"]),
        ("100080576_f52e8ee070_n", ["100080576_f52e8ee070", "100080576"]),
    ],
)
def test_names_lose_their_last_part_first(stem: str, expected: list[str]) -> None:
    assert expected == shorter(stem)


def test_images_of_one_patient_are_a_group() -> None:
    paths = [f"{'ab'[patient % 2]}/patient{patient:02}_{image:03}.png" for patient in range(12) for image in range(5)]
    found = name_groups(index_of(paths))
    assert found is not None
    assert tuple(f"patient{patient:02}" for patient in range(12)) == found.names
    assert [tuple(range(5 * patient, 5 * patient + 5)) for patient in range(12)] == found.positions()


def test_the_widest_groups_are_taken() -> None:
    paths = [
        f"{'ab'[patient % 2]}/C{patient + 100}P_IMG_2015091{slide}_cell_{image}.png"
        for patient in range(10)
        for slide in range(3)
        for image in range(4)
    ]
    found = name_groups(index_of(paths))
    assert found is not None
    assert tuple(f"C{patient + 100}" for patient in range(10)) == found.names


@pytest.mark.parametrize(
    "paths",
    [
        pytest.param([f"{'cd'[n % 2]}/{'cd'[n % 2]}at.{n}.jpg" for n in range(100)], id="the class's name"),
        pytest.param([f"{'cd'[n % 2]}/{n:05}.jpg" for n in range(100)], id="numbers alone"),
        pytest.param([f"{'cd'[n % 2]}/IMG_201509{n % 20 + 10}_{n:06}.jpg" for n in range(100)], id="dates"),
        pytest.param([f"{'cd'[n % 2]}/{n * 7919}_f52e8e{n:03}_n.jpg" for n in range(100)], id="one a photo"),
        pytest.param([f"{'cd'[n % 2]}/batch{n % 4}_{n:03}.jpg" for n in range(100)], id="a few batches"),
        pytest.param([f"{'abcdefghij'[n % 10]}/n0{n % 10}_{n}.jpg" for n in range(100)], id="classes by number"),
        pytest.param([f"{'cd'[n % 2]}/photo{n:03}.jpg" for n in range(100)], id="one word and a number"),
    ],
)
def test_names_that_say_nothing_of_groups_are_left_alone(paths: list[str]) -> None:
    assert name_groups(index_of(paths)) is None


def test_numbers_that_begin_anew_in_each_folder_are_of_that_folder() -> None:
    paths = [f"{split}/a/film{n // 5:02}_{n:03}.jpg" for split in ("train", "test") for n in range(60)]
    found = name_groups(index_of(paths))
    assert found is not None
    assert 24 == len(found.names)
    assert [5] * 24 == [len(group) for group in found.positions()]


def test_groups_that_data_names_itself_are_not_guessed() -> None:
    paths = [f"{'ab'[n % 2]}/patient{n // 5:02}_{n:03}.png" for n in range(60)]
    assert name_groups(index_of(paths, groups=["x"] + [""] * 59)) is None


@pytest.mark.parametrize("name", ["flowers5", "hymenoptera", "cats_dogs"])
def test_real_photos_without_groups_raise_no_alarm(assets: Path, name: str) -> None:
    assert name_groups(index_images(assets / "data" / name, trainable=False)) is None


def test_the_patients_of_real_microscope_images_are_found(assets: Path) -> None:
    index = index_images(assets / "data" / "malaria_cells")
    found = name_groups(index)
    assert found is not None
    assert "C100P61" in found.names
    assert 324 == len(found.names)


def test_the_manifest_ties_copies_near_copies_and_names_in_a_chain(tmp_path: Path) -> None:
    index = made("aabbab", contents=[0, 1, 2, 3, 0, 5])  # 0 and 4 have equal bytes
    write_grouped(tmp_path / "g.csv", index, [(4, 1), (1, 2)], without={"b/0005.jpg"})
    rows = list(csv.DictReader(io.StringIO((tmp_path / "g.csv").read_text(encoding="utf-8"))))
    assert ["a", "a", "b", "b", "a"] == [row["label"] for row in rows]
    groups = [row["group"] for row in rows]
    assert 1 == len({groups[0], groups[1], groups[2], groups[4]})
    assert "" == groups[3] != groups[0]
    assert str(index.file(0)) == rows[0]["path"]
