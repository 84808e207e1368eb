import json
from dataclasses import replace

import pytest

from tests.data.made import made
from upcycle.audit.checks import run_checks
from upcycle.audit.findings import Audit, Audited
from upcycle.data.index import Index
from upcycle.data.listing import Unusable
from upcycle.data.splits import split
from upcycle.errors import RunError


def warnings(index: Index) -> list[str]:
    data = Audited(index, split(index, seed=0))
    return list(Audit.of(data, run_checks(data)).warnings)


def test_copies_in_two_declared_splits_are_on_both_sides() -> None:
    index = made("aabbab", contents=[0, 0, 2, 3, 0, 3], declared=["train", "train", "train", "val", "test", "test"])
    assert Audited(index, split(index, seed=0)).across(index.duplicates()) == [(0, 1, 4), (3, 5)]


def test_balanced_data_of_some_size_has_no_warnings() -> None:
    index = made("a" * 200 + "b" * 200)
    assert warnings(index) == []


def test_small_and_uneven_splits_are_warned_about() -> None:
    index = made("a" * 60 + "b" * 8)
    assert warnings(index) == [
        "the val split has only 10 images: its metrics are rough",
        "the test split has only 10 images: its metrics are rough",
        "class 'b' has only 6 images to train on",
        "Classes are uneven: 60 images of 'a', 8 of 'b'. Always predicting 'a' is right 88 % of the time, and 'b' is "
        "learned from little. Read F1 by class rather than accuracy; try --class-weights balanced",
    ]


def test_a_declared_split_without_a_class_is_warned_about() -> None:
    index = made("ab" * 200 + "a" * 60, declared=["train", "train", "test", "test"] * 100 + ["val"] * 60)
    assert warnings(index) == ["the val split has no image of class 'b'"]


def test_duplicates_conflicts_and_leaks_are_named() -> None:
    contents = [*range(400)]
    for copy, of in ((4, 0), (1, 0), (6, 2), (12, 8), (20, 16), (399, 24)):
        contents[copy] = of
    index = made("ab" * 200, contents=contents, declared=["train"] * 240 + ["val"] * 80 + ["test"] * 80)
    conflicts, leaks, copies = warnings(index)
    assert conflicts.startswith(
        "2 images with different labels: a/0000.jpg = b/0001.jpg = a/0004.jpg; a/0024.jpg = b/0399.jpg. At least one"
    )
    assert leaks.startswith("1 image on more than one side of the split: a/0024.jpg = b/0399.jpg. Test images with")
    assert copies == (
        "5 images with duplicates (equal bytes): a/0000.jpg = b/0001.jpg = a/0004.jpg; a/0002.jpg = a/0006.jpg; "
        "a/0008.jpg = a/0012.jpg; and 2 more"
    )


def test_an_audit_is_read_back_as_it_was() -> None:
    declared = ["train", "train", "test", "test"] * 5 + ["val"] * 20
    index = made("ab" * 20, contents=[0, 0, 0, *range(3, 40)], declared=declared)
    index = index.without({5: Unusable("empty file (zero bytes)", "empty")})
    data = Audited(index, split(index, seed=0))
    known = replace(Audit.of(data, run_checks(data)), data="/photos", command="upcycle scan")
    read = Audit.from_dict(json.loads(json.dumps(known.to_dict())))
    assert (known.to_dict(), known.findings) == (read.to_dict(), read.findings)
    assert ["empty"] == [file.kind for file in read.quarantined]
    assert {"leaks", "conflicts", "copies"} <= {finding.kind for finding in read.findings}


def test_an_audit_of_an_earlier_version_is_read_and_another_file_refused() -> None:
    index = made("ab" * 20)
    values = Audit.of(Audited(index), []).to_dict()
    del values["findings"]
    assert 40 == Audit.from_dict({**values, "quarantined": [{"path": "a", "reason": "torn"}]}).images
    with pytest.raises(RunError, match="the audit is damaged"):
        Audit.from_dict({"images": 3})
