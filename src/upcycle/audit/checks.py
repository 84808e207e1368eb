"""What can be wrong with a folder of images: a function for each question, from the cheap to those that need pixels."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow.compute as pc

from upcycle.audit import duplicates
from upcycle.audit.duplicates import NameGroups, name_groups
from upcycle.audit.findings import Audited, Finding, unusable
from upcycle.data import depth
from upcycle.data.decode import MAX_ASPECT
from upcycle.data.formats import FORMATS
from upcycle.data.listing import shown

TINY = 24
"""Images with fewer pixels on their short side are pointed out."""
GRAY = 4
"""An image no part of which differs by more between its channels (of 255) is gray."""
FEW_GRAY = 0.2
"""Gray images are pointed out up to this fraction; with more, gray is what these images are."""
UNEVEN = 5
"""Classes whose image counts differ by more than this factor are pointed out."""

Check = Callable[[Audited], Finding | None]


# ----------------------------------------------------------------- what a listing and headers tell


def misnamed(data: Audited) -> Finding | None:
    """Files whose ending names another format than their content has."""
    paths = np.array([path.lower() for path in data.index.paths.to_pylist()], "T")
    wrong = np.zeros(len(paths), bool)
    for format in FORMATS:
        right = np.zeros(len(paths), bool)
        for ending in format.endings:
            right |= np.strings.endswith(paths, ending)
        wrong |= (data.index.formats == format.name.encode()) & ~right
    groups = tuple((data.image(at, f"is {data.index.formats[at].decode()}"),) for at in np.flatnonzero(wrong).tolist())
    if not groups:
        return None
    return Finding.counted(
        "wrong-ending",
        "file has the ending of another format",
        "files have the ending of another format",
        "None here, where the content decides; tools that go by the ending skip such files or stop at them",
        "Rename them if other tools read this folder",
        groups,
    )


def reading(data: Audited) -> Finding | None:
    """How DATA was read, where that is not plain."""
    if not data.index.notes:
        return None
    notes = data.index.notes
    return Finding(
        "reading",
        "How folders and names were read",
        "; ".join(notes),
        "If that is not what was meant, rename them or give the option that says so",
    )


def tiny(data: Audited) -> Finding | None:
    """Images of a few pixels."""
    small = np.flatnonzero(np.minimum(data.index.widths, data.index.heights) < TINY)
    if not len(small):
        return None
    mostly = data.mostly(small)
    return Finding.counted(
        "tiny",
        f"image is smaller than {TINY} pixels",
        f"images are smaller than {TINY} pixels",
        (f"{mostly}: the blur of enlarging may give the class away" if mostly else "")
        or "They are enlarged many times, to a blur that carries little of the class",
        "Look whether they are thumbnails or icons that were swept up, and exclude those",
        tuple((data.image(at, _pixels(data, at)),) for at in small.tolist()),
        serious=bool(mostly),
    )


def elongated(data: Audited) -> Finding | None:
    """Images so long that their ends are cut off."""
    sides = np.sort(np.stack([data.index.widths, data.index.heights]), axis=0)
    long = np.flatnonzero(sides[1] > MAX_ASPECT * sides[0])
    if not len(long):
        return None
    return Finding.counted(
        "odd-aspect",
        f"image is more than {MAX_ASPECT} times as long as it is wide",
        f"images are more than {MAX_ASPECT} times as long as they are wide",
        f"Only the middle {MAX_ASPECT}:1 of them is used: what the label means may be in the ends",
        "Crop them to what the label means",
        tuple((data.image(at, _pixels(data, at)),) for at in long.tolist()),
    )


def _pixels(data: Audited, at: int) -> str:
    return f"{data.index.widths[at]} x {data.index.heights[at]}"


def grouped_names(data: Audited) -> Finding | None:
    """File names that look like groups (patients, films, places) with images on more than one side of the split."""
    found = name_groups(data.index)
    mixed = found.across(data.sides) if found is not None else []
    if found is None or not mixed:
        return None
    number = len(np.unique(found.codes[(found.codes >= 0) & (data.sides >= 0)]))
    beginnings = (found.names[int(found.codes[group[0]])] for group in mixed)
    return Finding.counted(
        "name-groups",
        f"of {number:,} groups that file names show is on more than one side of the split",
        f"of {number:,} groups that file names show are on more than one side of the split",
        f"If names that begin alike are of one patient, film or place, it is recalled rather than recognized: "
        f"{_lower(data.exposed(mixed))}",
        "If they are groups, name them in the column group of a manifest: each is then kept on one side",
        data.together(mixed),
        names=tuple(f"{name}… ({len(group)} images)" for name, group in zip(beginnings, mixed, strict=True)),
        serious=True,
    )


def declared_groups(data: Audited) -> Finding | None:
    """Groups that DATA declares with images on more than one side of the split that it declares too."""
    codes = data.index.groups.dictionary_encode()
    names, codes = codes.dictionary.to_pylist(), codes.indices.to_numpy()
    found = NameGroups(
        tuple(names), np.where(pc.equal(data.index.groups, "").to_numpy(zero_copy_only=False), -1, codes)
    )
    mixed = found.across(data.sides)
    if not mixed:
        return None
    number = sum(1 for name in names if name)
    return Finding.counted(
        "groups",
        f"of {number:,} groups is on more than one side of the declared split",
        f"of {number:,} groups are on more than one side of the declared split",
        f"What belongs together is recalled rather than recognized: {_lower(data.exposed(mixed))}",
        "Declare one side for each group, or let --regroup draw the split again for these",
        data.together(mixed),
        names=tuple(f"{found.names[int(found.codes[group[0]])]} ({len(group)} images)" for group in mixed),
        serious=True,
    )


def uneven(data: Audited) -> Finding | None:
    """Classes of very different sizes."""
    counts = data.index.class_counts()
    few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[many] <= UNEVEN * counts[few]:
        return None
    share = 100 * counts[many] / len(data.index)
    return Finding(
        "imbalance",
        f"Classes are uneven: {counts[many]:,} images of {shown(many)!r}, {counts[few]:,} of {shown(few)!r}",
        f"Always saying {shown(many)!r} is right {share:.0f} % of the time, and {shown(few)!r} is learned from little",
        "Read F1 by class rather than accuracy; try --class-weights balanced",
        serious=True,
    )


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


# ------------------------------------------------------------------------------ copies


def _copies(data: Audited) -> duplicates.Groups:
    """Equal images: by pixels where they were decoded, else by bytes."""
    return data.index.duplicates() if data.facts is None else duplicates.same_pixels(data.facts)


def conflicts(data: Audited) -> Finding | None:
    """The same image under different labels."""
    found = data.of_several_classes(_copies(data))
    if not found:
        return None
    images = sum(map(len, found))
    return Finding.counted(
        "conflicts",
        "image has different labels",
        "images have different labels",
        f"At least one label of each is wrong: {images:,} images pull training both ways, "
        "and in the test one of each pair counts as a mistake whatever is said",
        "Look which label is right and remove the other copy; until then exclude all copies",
        data.together(found),
        serious=True,
    )


def leaking(data: Audited) -> Finding | None:
    """The same image on more than one side of the split."""
    found = data.across(_copies(data))
    if not found:
        return None
    return Finding.counted(
        "leaks",
        "image is on more than one side of the split",
        "images are on more than one side of the split",
        data.exposed(found),
        "Keep one copy; where the split is not declared, copies with equal bytes are kept on one side",
        data.together(found),
        serious=True,
    )


def copies(data: Audited) -> Finding | None:
    """The same image more than once."""
    found = _copies(data)
    if not found:
        return None
    extra = sum(len(group) - 1 for group in found)
    how = "bytes" if data.facts is None else "pixels"
    return Finding.counted(
        "copies",
        f"image has duplicates (equal {how})",
        f"images have duplicates (equal {how})",
        f"{extra:,} of {len(data.index):,} images add nothing new, and copies count again in training and scores",
        "Keep one of each",
        data.together(found),
    )


# ------------------------------------------------------------------------ what pixels tell


def blank(data: Audited) -> Finding | None:
    """Images that show nothing."""
    found = duplicates.blank(data.facts) if data.facts is not None else np.empty(0, np.int64)
    if data.facts is not None and dim(data):  # what they show is told only by their own white
        found = found[data.facts["peak"][found] == 0]
    if not len(found):
        return None
    mostly = data.mostly(found)
    return Finding.counted(
        "blank",
        "image is blank",
        "images are blank",
        f"{mostly}: emptiness is learned as that class" if mostly else "Their label cannot be told from what they show",
        "Exclude them",
        data.alone(found.tolist()),
        serious=bool(mostly),
    )


def dim(data: Audited) -> Finding | None:
    """Images of more than 8 bits none of which comes near the white of 16."""
    deep = data.facts["peak"][data.facts["peak"] > 0] if data.facts is not None else np.empty(0)
    return too_dark(deep.tolist())


def too_dark(peaks: Sequence[float]) -> Finding | None:
    """The finding on images of more than 8 bits from the greatest value of each; None where they are bright enough."""
    peak = max(peaks, default=0)
    bits = depth.bits_of(peak)
    if bits is None:
        return None
    images = "the one image" if len(peaks) == 1 else f"{len(peaks):,} images"
    return Finding(
        "scale",
        f"{bits} bits in 16? No value of {images} of more than 8 bits is above {peak:,.0f}",
        f"White of 16 bits is 65,535, so they come out {65535 / (2**bits - 1):,.0f} times too dark",
        f"Say what is white, to scan and to train: --scale {2**bits - 1}",
        serious=True,
    )


def gray(data: Audited) -> Finding | None:
    """A few gray images among color."""
    if data.facts is None:
        return None
    found = np.flatnonzero((data.facts["color"] <= GRAY) & (data.facts["contrast"] >= duplicates.BLANK))
    if not 0 < len(found) <= FEW_GRAY * len(data.index):
        return None
    mostly = data.mostly(found)
    return Finding.counted(
        "gray",
        "image is gray among color",
        "images are gray among color",
        f"{mostly}: the lack of color may be learned instead of the class"
        if mostly
        else "Little, as long as all classes have some; color is no cue in them",
        "Look whether they come from another source than the rest",
        data.alone(found.tolist()),
        serious=bool(mostly),
    )


def near(data: Audited) -> Finding | None:
    """Near-duplicate images: resized, recompressed, recolored."""
    found = duplicates.near(data.facts) if data.facts is not None else []
    if found is None:
        return Finding(
            "near",
            "The images are too alike to tell near-duplicates from others",
            "Unknown: near-duplicates may be on both sides of the split",
            "Where several are of one thing, name the groups in the column group of a manifest",
        )
    if not found:
        return None
    across, mixed = data.across(found), data.of_several_classes(found)
    effect = f"{len(mixed):,} of them with different labels. " if mixed else ""
    effect += data.exposed(across) if across else "None is on two sides of the split; they count more than once"
    first = list(dict.fromkeys([*across, *mixed]))
    return Finding.counted(
        "near",
        "set of near-duplicate images",
        "sets of near-duplicate images",
        effect,
        "Look at them; keep one of each, or give them one name in the column group of a manifest",
        data.together(list(dict.fromkeys([*first, *found]))),
        serious=bool(first),
    )


HEADERS: tuple[Check, ...] = (declared_groups, grouped_names, misnamed, tiny, elongated)
"""Checks of names and headers alone."""
CHEAP: tuple[Check, ...] = (
    conflicts,
    leaking,
    declared_groups,
    grouped_names,
    uneven,
    misnamed,
    tiny,
    elongated,
    copies,
)
"""Checks that need no pixels: a run makes them by itself."""
ALL: tuple[Check, ...] = (
    dim,
    conflicts,
    leaking,
    near,
    declared_groups,
    grouped_names,
    uneven,
    blank,
    gray,
    tiny,
    elongated,
    copies,
    misnamed,
    reading,
)
"""In the order in which they matter."""


def check(data: Audited, checks: Sequence[Check] = ALL, *, unusable_too: bool = True) -> list[Finding]:
    """What `checks` find, serious findings first, then files that cannot be used."""
    found = [finding for one in checks if (finding := one(data)) is not None]
    found.sort(key=lambda finding: not finding.serious)
    return found + (unusable(data.index.quarantined) if unusable_too else [])
