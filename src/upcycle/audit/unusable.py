"""Files that cannot be used, by what is wrong with them."""

from collections.abc import Sequence
from typing import NamedTuple

from upcycle.audit.findings import Finding, Image
from upcycle.data.decode import MAX_PIXELS
from upcycle.data.listing import Quarantined
from upcycle.errors import FileProblem


class _Problem(NamedTuple):
    """How a kind of problem is reported: of one file, of several, its effect, and what to do."""

    one: str
    many: str
    effect: str
    advice: str = "They are excluded: fetch them again, or delete them"


_PROBLEMS: dict[FileProblem, _Problem] = {
    "excluded": _Problem(
        "file is excluded by the list",
        "files are excluded by the list",
        "None: they are neither trained on nor tested",
        "Edit the list to use them again",
    ),
    "empty": _Problem("file has zero bytes", "files have zero bytes", "Nothing can be learned from them"),
    "too-large": _Problem(
        "file is too large",
        "files are too large",
        f"An image of more than {MAX_PIXELS // 10**6} million pixels fills the memory when it is decoded",
    ),
    "truncated": _Problem(
        "file is truncated",
        "files are truncated",
        "Read on regardless, the missing part is gray, and gray is learned as the class",
    ),
    "misplaced": _Problem(
        "file is missing, badly named or not in a class folder",
        "files are missing, badly named or not in a class folder",
        "They are not trained on, nor tested",
    ),
    "unsupported": _Problem(
        "file has an unsupported extension or format",
        "files have an unsupported extension or format",
        "They are not trained on, nor tested",
        "Rename or convert them, or delete them",
    ),
    "limit": _Problem(
        "file exceeds the limits of decoding",
        "files exceed the limits of decoding",
        "They are not trained on, nor tested. The limit may have been this machine's",
    ),
    "unreadable": _Problem(
        "file cannot be read",
        "files cannot be read",
        "Tools that carry on regardless train on black images or on others under these labels",
    ),
}


def unusable(files: Sequence[Quarantined]) -> list[Finding]:
    """Files that are listed and never used, by kind."""
    by_kind: dict[FileProblem, list[Quarantined]] = {}
    for file in files:
        by_kind.setdefault(file.kind, []).append(file)
    return [
        Finding(
            kind,
            problem.one,
            problem.many,
            problem.effect,
            problem.advice,
            tuple((Image(file.path, note=file.reason),) for file in by_kind[kind]),
        )
        for kind, problem in _PROBLEMS.items()
        if kind in by_kind
    ]
