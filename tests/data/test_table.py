import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_index import FLAT, numbered, paths, problem, written
from upcycle.data.index import Index, index_images
from upcycle.data.listing import Layout
from upcycle.errors import ConfigError, DataError


def listed(root: Path, lines: list[str], *, encoding: str = "utf-8", name: str = "list.csv") -> Path:
    written(root, FLAT)
    (root / name).write_bytes("\n".join(lines).encode(encoding))
    return root / name


def rows(more: str = "", header: str = "path,label", between: str = ",") -> list[str]:
    return [header, *(f"{path}{between}{path[:4]}{more}" for path in FLAT)]


def split_rows(header: str, values: str = "train,test") -> list[str]:
    sides = values.split(",")
    return [header, *(f"{path},{path[:4]},{sides[at % len(sides)]}" for at, path in enumerate(FLAT))]


def declared(index: Index) -> list[str]:
    return [str(side) for side in index.declared]


@pytest.mark.parametrize("header", ["path,label,Split", "Path, LABEL , split ", "\ufeffpath,label,SPLIT"])
def test_columns_are_known_whatever_their_case_and_blanks(tmp_path: Path, header: str) -> None:
    assert declared(index_images(listed(tmp_path, split_rows(header)))) == ["train", "test"] * 2


@pytest.mark.parametrize(
    ("column", "ours"),
    [
        ("subset", "split"),
        ("Partition", "split"),
        ("spilt", "split"),
        ("patient_id", "group"),
        ("Patient ID", "group"),
        ("groups", "group"),
    ],
)
def test_a_column_that_may_be_meant_is_asked_about(tmp_path: Path, column: str, ours: str) -> None:
    assert problem(listed(tmp_path, split_rows(f"path,label,{column}", "a,b"))) == (
        f"DATA has a column {column!r}, which may be the {ours}: give --{ours}-column {column}, "
        f"or --{ours}-column none to leave it unused"
    )


def test_a_column_of_splits_is_asked_about_by_its_values(tmp_path: Path) -> None:
    message = problem(listed(tmp_path, split_rows("path,label,stage", "Training,test")))
    assert message.startswith("DATA has a column 'stage', which may be the split")


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    file = listed(tmp_path, split_rows("filename,species,subset"))
    assert "or give --path-column filename" in problem(file)
    index = index_images(file, Layout(columns={"path": "filename", "label": "Species", "split": "subset"}))
    assert index.classes == ("ants", "bees")
    assert declared(index) == ["train", "test"] * 2
    index = index_images(file, Layout(columns={"path": "filename", "label": "species", "split": "none"}))
    assert declared(index) == [""] * 4
    with pytest.raises(
        DataError, match=r"^--label-column x: .* has no such column \(it has: filename, species, subset\)"
    ):
        index_images(file, Layout(columns={"path": "filename", "label": "x"}))


def test_a_doubled_column_is_an_error(tmp_path: Path) -> None:
    message = problem(listed(tmp_path, split_rows("path,label,Label")))
    assert message == "DATA has two columns 'label': remove or rename one of them"


def test_columns_that_are_not_used_are_named_once(tmp_path: Path) -> None:
    index = index_images(listed(tmp_path, split_rows("path,label,weather", "sun,rain")))
    assert index.notes == ("columns of list.csv that are not used: weather",)


@pytest.mark.parametrize("between", [";", "\t", "|"])
def test_other_separators_are_read(tmp_path: Path, between: str) -> None:
    assert len(index_images(listed(tmp_path, rows(header=f"path{between}label", between=between)))) == 4


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    assert len(index_images(listed(tmp_path, rows(), encoding=encoding, name="list.tsv"))) == 4


def test_a_field_without_an_end_is_one_line(tmp_path: Path) -> None:
    message = problem(listed(tmp_path, [*rows(), f'"{"x" * 140_000},a']))
    assert message == "DATA, line 6: a field of more than 128 KiB: is a quote left open?"


@pytest.mark.parametrize("label", ["nan", "NaN"])
def test_a_missing_label_is_refused_with_its_row(tmp_path: Path, label: str) -> None:
    message = problem(listed(tmp_path, [*rows(), f"x.png,{label}"]))
    assert message == f"DATA, row 5: label {label!r} is a missing value: name the class, or remove the row"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1.0, float("nan")], "row 2: label is missing: name the class, or remove the row"),
        (["a", None], "row 2: label is missing: name the class, or remove the row"),
        ([["a"], ["b", "c"]], "row 1: label holds several values: give one name or number"),
        ([{"x": 1}, {"x": 2}], "row 1: label holds neither text nor a number: give one name or number"),
    ],
)
def test_labels_that_are_no_name_are_refused_with_their_row(tmp_path: Path, labels: list[object], said: str) -> None:
    pq.write_table(pa.table({"path": ["1.png", "2.png"], "label": labels}), tmp_path / "list.parquet")
    assert problem(tmp_path / "list.parquet") == f"DATA, {said}"


def test_labels_are_compared_in_one_unicode_form_without_blanks(tmp_path: Path) -> None:
    lines = ["path,label", "ants/1.png,caf\u00e9", "ants/2.png,cafe\u0301 ", "bees/1.png,b", "bees/2.png,b "]
    assert index_images(listed(tmp_path, lines)).class_counts() == {"b": 2, "caf\u00e9": 2}


def test_paths_are_found_in_the_other_unicode_form_and_with_backslashes(tmp_path: Path) -> None:
    names = ["caf\u00e9/u\u0308/1.png", "pate\u0301/2.png", "b/1.png", "b/2.png"]
    written(tmp_path, numbered(*names))
    given = [unicodedata.normalize("NFC", names[0]), unicodedata.normalize("NFC", names[1]), "b\\1.png", " b/2.png"]
    given[0] = unicodedata.normalize("NFD", given[0])
    lines = ["path,label", *(f"{path},{'a' if at < 2 else 'b'}" for at, path in enumerate(given))]
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    assert len(index_images(tmp_path / "list.csv")) == 4
    assert paths(index_images(tmp_path / "list.csv"))[:2] == ["b/1.png", "b/2.png"]


def test_a_manifest_whose_files_are_not_found_is_an_error(tmp_path: Path) -> None:
    lines = [*rows(), *(f"x/{at},c" for at in range(96))]
    message = problem(listed(tmp_path, lines))
    assert message == (
        "DATA: 96 of 100 files are not found, the first ../x/0: give the folder they are in with --image-root, "
        "and their ending with --image-suffix"
    )


def test_a_class_whose_files_are_not_found_says_so(tmp_path: Path) -> None:
    message = problem(listed(tmp_path, [*rows(), "x/1.png,c", "x/2.png,c"]))
    assert message.startswith("class 'c' in ")
    assert "has no usable image (2 of 2 files, x/1.png for one: no such file)" in message


def test_a_root_and_an_ending_complete_the_paths(tmp_path: Path) -> None:
    written(tmp_path / "photos", FLAT)
    lines = ["path,label", *(f"{path.removesuffix('.png')},{path[:4]}" for path in FLAT)]
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    index = index_images(tmp_path / "list.csv", Layout(image_root=str(tmp_path / "photos"), image_suffix=".png"))
    assert index.root == tmp_path / "photos"
    assert paths(index) == sorted(FLAT)
    with pytest.raises(ConfigError, match=r"^--image-root .*none is no folder$"):
        index_images(tmp_path / "list.csv", Layout(image_root=str(tmp_path / "none")))


def test_a_split_value_may_be_given_for_each_split(tmp_path: Path) -> None:
    file = listed(tmp_path, split_rows("path,label,split", "A,B"))
    assert declared(index_images(file, Layout(train_split="A", test_split="b"))) == ["train", "test"] * 2
    with pytest.raises(DataError, match=r"^--val-split C: no row of .* has that split$"):
        index_images(file, Layout(train_split="A", test_split="B", val_split="C"))


def test_groups_that_are_missing_values_are_none_and_told(tmp_path: Path) -> None:
    lines = ["path,label,group", *(f"{path},{path[:4]},{'nan' if at else 'p'}" for at, path in enumerate(FLAT))]
    index = index_images(listed(tmp_path, lines))
    assert index.groups.to_pylist() == ["p", "", "", ""]
    assert index.notes == ("the group 'nan' of 3 images is taken as none",)


def test_a_class_called_as_missing_values_are_is_told(tmp_path: Path) -> None:
    lines = ["path,label", *(f"{path},{'NA' if 'ants' in path else 'b'}" for path in FLAT)]
    assert index_images(listed(tmp_path, lines)).notes == (
        "'NA' is taken as a class: remove its rows if it is a missing value",
    )


@pytest.mark.parametrize(
    "lines",
    [
        [*rows(), ",", " ,"],
        ["path,label", *(f"{path},{path[:4]}," for path in FLAT)],
        ["path, label", *(f'{path}, "{path[:4]}"' for path in FLAT)],
        ['path,label,"a;b;c;d"', *(f"{path},{path[:4]},x" for path in FLAT)],
    ],
)
def test_the_csv_of_spreadsheets_is_read(tmp_path: Path, lines: list[str]) -> None:
    assert index_images(listed(tmp_path, lines)).class_counts() == {"ants": 2, "bees": 2}


def test_utf_16_without_its_mark_is_read(tmp_path: Path) -> None:
    assert len(index_images(listed(tmp_path, rows(), encoding="utf-16-le"))) == 4


def test_a_file_under_two_spellings_is_listed_twice(tmp_path: Path) -> None:
    assert problem(listed(tmp_path, [*rows(), "ants/../ants/1.png,b"])) == "DATA, row 5: ants/1.png is listed twice"


@pytest.mark.parametrize("column", ["splint", "status", "activity"])
def test_columns_of_other_things_are_left_alone(tmp_path: Path, column: str) -> None:
    assert declared(index_images(listed(tmp_path, split_rows(f"path,label,{column}", "valid,")))) == [""] * 4


def test_columns_of_a_parquet_file_that_are_not_used_are_not_looked_at(tmp_path: Path) -> None:
    written(tmp_path, FLAT)
    far = pa.array([10**8] * 4, pa.int32()).cast(pa.date32())
    columns = [pa.array(list(FLAT)), pa.array([path[:4] for path in FLAT]), far, far]
    table = pa.Table.from_arrays(columns, names=["path", "label", "day", "day"])
    pq.write_table(table, tmp_path / "list.parquet")
    assert len(index_images(tmp_path / "list.parquet")) == 4


def test_an_ending_may_be_given_without_its_dot(tmp_path: Path) -> None:
    lines = ["path,label", *(f"{path.removesuffix('.png')} ,{path[:4]}" for path in FLAT)]
    assert len(index_images(listed(tmp_path, lines), Layout(image_suffix="png"))) == 4


def test_a_row_with_a_signed_address_is_refused_without_its_signature(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label\nhttps://host/1.png?X-Amz-Signature=abc,a\n")
    with pytest.raises(DataError, match=r"row 1: https://host/1\.png has a password or a signature") as error:
        index_images(manifest)
    assert "abc" not in str(error.value)
