"""Files that cannot be used, by what is wrong with them."""

from collections.abc import Sequence

from upcycle.audit.findings import Finding, Image
from upcycle.data.decode import MAX_PIXELS
from upcycle.data.listing import Quarantined

_REASONS = (
    ("set-aside", ("set aside by",), "file is set aside by the list", "files are set aside by the list"),
    ("empty", ("zero bytes",), "file has zero bytes", "files have zero bytes"),
    ("bomb", ("more than the limit", "is larger than"), "file is too large", "files are too large"),
    ("truncated", ("truncated", "unexpected end"), "file is cut short", "files are cut short"),
    ("unplaced", ("class folder", "UTF-8", "broken link"), "file has no place", "files have no place"),
    (
        "unread",
        ("are not read:", "by its content"),
        "picture has an ending that is not read",
        "pictures have endings that are not read",
    ),
    ("unreadable", ("",), "file cannot be read", "files cannot be read"),
)
_EFFECTS = {
    "set-aside": "None: they are neither trained on nor tested",
    "empty": "Nothing can be learnt from them",
    "bomb": f"An image of more than {MAX_PIXELS // 10**6} million pixels fills the memory when it is decoded",
    "truncated": "Read on regardless, the missing part is grey, and grey is learnt as the class",
    "unplaced": "They are in no class folder, or cannot be opened by their name: they are not trained on",
    "unread": "They are not trained on, nor tested",
    "unreadable": "Tools that carry on regardless train on black images or on others under these labels",
}
_BACK = "Edit the list to have them back"
_GONE = "They are set aside by themselves: fetch them again, or delete them"
_ADVICE = {"set-aside": _BACK, "unread": "Rename or convert them, or delete them"}


def unusable(files: Sequence[Quarantined]) -> list[Finding]:
    """Files that are listed and never used, by kind."""
    by_kind: dict[str, list[Quarantined]] = {}
    for file in files:
        kind = next(kind for kind, words, *_ in _REASONS if any(word in file.reason for word in words))
        by_kind.setdefault(kind, []).append(file)
    return [
        Finding(
            kind,
            one,
            many,
            _EFFECTS[kind],
            _ADVICE.get(kind, _GONE),
            tuple((Image(file.path, note=file.reason),) for file in by_kind[kind]),
        )
        for kind, _, one, many in _REASONS
        if kind in by_kind
    ]
