from dataclasses import replace
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest

from tests.data.made import made
from upcycle.audit.checks import run_checks
from upcycle.audit.findings import Audited, Finding, unusable
from upcycle.audit.statistics import RECORD, Statistics
from upcycle.data.index import Index
from upcycle.data.listing import Quarantined
from upcycle.data.splits import Splits, split
from upcycle.errors import FileProblem


def statistics_of(index: Index, **columns: object) -> Statistics:
    """Statistics of ordinary, different images, but for `columns`."""
    statistics = np.zeros(len(index), RECORD)
    statistics["contrast"], statistics["color"] = 60, 120
    statistics["pixels"] = index.hashes.astype("S32")
    statistics["perceptual"] = np.random.default_rng(0).integers(0, 2**63, len(index), dtype=np.uint64)
    for name, values in columns.items():
        statistics[name] = values
    return statistics


def found(
    index: Index, kind: str, statistics: Statistics | None = None, splits: Splits | None = None
) -> Finding | None:
    known = {} if statistics is None else {"statistics": statistics}
    findings = run_checks(Audited(index, splits or split(index, seed=0), **known))
    matching = [finding for finding in findings if finding.kind == kind]
    assert len(matching) <= 1
    return matching[0] if matching else None


def test_ordinary_images_have_no_findings() -> None:
    index = made("ab" * 100)
    assert [] == run_checks(Audited(index, split(index, seed=0), statistics_of(index)))


def test_an_ending_of_another_format_is_found() -> None:
    index = made("ab" * 20)
    index = replace(index, formats=np.array([b"JPEG"] * 38 + [b"PNG", b"WEBP"]))
    finding = found(index, "wrong-ending")
    assert finding is not None
    assert "2 files with the ending of another format" == finding.title
    assert ["is PNG", "is WEBP"] == [group[0].note for group in finding.groups]
    assert not finding.serious


def test_either_ending_of_a_format_is_right_in_any_case() -> None:
    index = made("ababab")
    names = ["a/0.JPG", "b/1.jpeg", "a/2.tif", "b/3.TIFF", "a/4.png", "b/5.jpe"]
    formats = np.array([b"JPEG", b"JPEG", b"TIFF", b"TIFF", b"PNG", b"JPEG"])
    index = replace(index, paths=pa.array(names, pa.string()), formats=formats)
    assert found(index, "wrong-ending") is None


def test_tiny_and_very_long_images_are_found_with_their_size() -> None:
    index = made("ab" * 20)
    widths, heights = index.widths.copy(), index.heights.copy()
    widths[3], heights[5], widths[8] = 12, 257, 256
    index = replace(index, widths=widths, heights=heights)
    tiny, long = found(index, "tiny"), found(index, "odd-aspect")
    assert tiny is not None
    assert long is not None
    assert ["b/0003.jpg", "12 x 64"] == [tiny.groups[0][0].path, tiny.groups[0][0].note]
    assert ["b/0003.jpg", "b/0005.jpg"] == [group[0].path for group in long.groups]  # 256 x 64 is just 4 to 1


def test_tiny_images_of_one_class_give_it_away() -> None:
    index = made("ab" * 20)
    widths = np.where(np.arange(40) % 2, 12, 64).astype(np.int32)
    finding = found(replace(index, widths=widths), "tiny")
    assert finding is not None
    assert "20 of them are of class 'b': the blur of enlarging may give the class away" == finding.effect
    assert finding.serious


def test_blank_and_gray_images_are_found_when_they_are_few() -> None:
    index = made("ab" * 50)
    contrast, color = np.full(100, 60.0), np.full(100, 120.0)
    contrast[7], color[[7, 20]] = 0, 0
    statistics = statistics_of(index, contrast=contrast, color=color)
    blank, gray = found(index, "blank", statistics), found(index, "gray", statistics)
    assert blank is not None
    assert gray is not None
    assert ["b/0007.jpg"] == [group[0].path for group in blank.groups]
    assert ["a/0020.jpg"] == [group[0].path for group in gray.groups]
    assert found(index, "gray", statistics_of(index, color=0)) is None


def test_copies_conflicts_and_leaks_are_reported_with_what_they_do() -> None:
    contents = [*range(40)]
    contents[4], contents[1], contents[38] = 0, 2, 6
    index = made("ab" * 20, contents=contents, declared=["train"] * 20 + ["val"] * 10 + ["test"] * 10)
    copies, conflicts, leaks = (found(index, kind) for kind in ("copies", "conflicts", "leaks"))
    assert copies is not None
    assert conflicts is not None
    assert leaks is not None
    assert "3 images with duplicates (equal bytes)" == copies.title
    assert "3 of 40 images add nothing new, and copies count again in training and scores" == copies.effect
    assert ["b/0001.jpg", "a/0002.jpg"] == [image.path for image in conflicts.groups[0]]
    assert [("a/0006.jpg", "train"), ("a/0038.jpg", "test")] == [(image.path, image.split) for image in leaks.groups[0]]
    assert (
        "Test images with such a counterpart in training or validation: 1 of 10, "
        "so test accuracy may be flattered by up to 10 points"
    ) == leaks.effect


def test_equal_pixels_leak_through_a_split_that_keeps_equal_bytes_together() -> None:
    index = made("ab" * 20, declared=["train"] * 20 + ["val"] * 10 + ["test"] * 10)
    pixels = index.hashes.astype("S32")
    pixels[36] = pixels[0]
    leaks = found(index, "leaks", statistics_of(index, pixels=pixels))
    assert leaks is not None
    assert ["a/0000.jpg", "a/0036.jpg"] == [image.path for image in leaks.groups[0]]


def test_near_copies_across_splits_and_labels_come_first() -> None:
    index = made("ab" * 20, declared=["train"] * 20 + ["val"] * 10 + ["test"] * 10)
    statistics = statistics_of(index)
    small = np.random.default_rng(0).integers(0, 256, (40, 256), dtype=np.uint8)
    for copy, of in ((2, 0), (31, 4)):  # a pair that trains; one across the split with two labels
        statistics["perceptual"][copy] = statistics["perceptual"][of] ^ np.uint64(5)
        small[copy] = small[of]
    statistics["small"] = np.frombuffer(small.tobytes(), "V256")
    near = found(index, "near", statistics)
    assert near is not None
    assert [["a/0004.jpg", "b/0031.jpg"], ["a/0000.jpg", "a/0002.jpg"]] == [
        [image.path for image in group] for group in near.groups
    ]
    assert near.effect.startswith("1 of them with different labels. Test images with such a counterpart in training")
    assert near.serious


def test_groups_of_names_on_two_sides_are_reported_by_name() -> None:
    index = made("ab" * 40, declared=["train", "train", "val", "test"] * 20)
    names = [f"{'ab'[n % 2]}/patient{n // 8:02}_{n:03}.jpg" for n in range(80)]
    finding = found(replace(index, paths=pa.array(names, pa.string())), "name-groups")
    assert finding is not None
    assert "10 of 10 groups in file names on more than one side of the split" == finding.title
    assert "patient00… (8 images); patient01… (8 images); patient02… (8 images); and 7 more" == finding.named()
    assert finding.effect.endswith("20 of 20, so test accuracy may be flattered by up to 100 points")


def test_uneven_classes_are_reported_with_the_accuracy_of_predicting_one() -> None:
    finding = found(made("a" * 90 + "b" * 10), "imbalance")
    assert finding is not None
    assert "Classes are uneven: 90 images of 'a', 10 of 'b'" == finding.title
    assert "Always predicting 'a' is right 90 % of the time, and 'b' is learned from little" == finding.effect


@pytest.mark.parametrize("kind", get_args(FileProblem))
def test_files_that_cannot_be_used_are_reported_by_their_code_whatever_the_reason_says(kind: FileProblem) -> None:
    (finding,) = unusable([Quarantined("a/x.jpg", "zero bytes, truncated, excluded by", kind=kind)])
    assert kind == finding.kind
    assert "a/x.jpg (zero bytes, truncated, excluded by)" == finding.named()


def test_a_finding_is_one_sentence_and_plain_values() -> None:
    (finding,) = unusable([Quarantined("a/x.jpg", "empty file (zero bytes)", kind="empty")])
    assert "1 file of zero bytes: a/x.jpg (empty file (zero bytes))" == finding.warning
    assert {
        "kind": "empty",
        "count": 1,
        "images": 1,
        "title": "1 file of zero bytes",
        "effect": "Nothing can be learned from them",
        "advice": "They are excluded: fetch them again, or delete them",
        "serious": False,
        "names": [],
        "groups": [[{"path": "a/x.jpg", "label": "", "split": "", "note": "empty file (zero bytes)"}]],
    } == finding.to_dict()


def test_declared_groups_on_several_declared_sides_are_reported_by_name() -> None:
    index = made("ab" * 6, groups=["p"] * 4 + ["q"] * 4 + [""] * 4, declared=["train", "test", "val"] * 4)
    finding = found(index, "groups")
    assert finding is not None
    assert finding.title == "2 of 2 groups on more than one side of the declared split"
    assert finding.names == ("p (4 images)", "q (4 images)")
    assert "--regroup" in finding.advice
    assert finding.serious


def test_groups_that_are_kept_on_one_side_are_no_finding() -> None:
    assert found(made("ab" * 30, groups=[f"p{at // 4}" for at in range(60)]), "groups") is None


def test_how_data_was_read_is_a_finding() -> None:
    index = replace(made("ab" * 20), notes=("'a' and 'a ' are one class",))
    finding = found(index, "reading", statistics_of(index))
    assert finding is not None
    assert finding.title == "How folders and names were read"
    assert finding.effect == "'a' and 'a ' are one class"


@pytest.mark.parametrize(("bits", "peak"), [(8, 200), (10, 1023), (12, 4000), (14, 9000)])
def test_deep_images_that_stay_dark_are_reported_and_not_called_blank(bits: int, peak: int) -> None:
    index = made("ab" * 10)
    statistics = statistics_of(index, peak=[peak] + [100] * 19, contrast=1)
    finding = found(index, "scale", statistics)
    assert finding is not None
    assert finding.title == f"{bits} bits in 16? No value of 20 images of more than 8 bits is above {peak:,}"
    assert finding.advice == f"Give the value of white, to scan and to train: --scale {2**bits - 1}"
    assert found(index, "blank", statistics) is None


def test_deep_images_one_of_which_is_bright_are_blank_where_they_show_nothing() -> None:
    index = made("ab" * 10)
    statistics = statistics_of(index, peak=[60000] + [100] * 19, contrast=[60] * 19 + [1])
    assert found(index, "scale", statistics) is None
    blank = found(index, "blank", statistics)
    assert blank is not None
    assert blank.count == 1


def test_images_of_8_bits_are_not_asked_for_their_white() -> None:
    index = made("ab" * 10)
    assert found(index, "scale", statistics_of(index)) is None
