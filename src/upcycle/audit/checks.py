"""What can be wrong with a folder of images: one function per question; those on pixels need statistics."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from upcycle.audit.findings import Audited, Finding, unusable
from upcycle.audit.proposals import NameGroups, name_groups
from upcycle.audit.statistics import BLANK, Groups, blank, near_duplicates, same_pixels
from upcycle.data.decode import MAX_ASPECT
from upcycle.data.formats import FORMATS, bits_of
from upcycle.errors import shown

TINY = 24
"""Images with fewer pixels on their short side are pointed out."""
GRAY = 4
"""An image no part of which differs by more between its channels (of 255) is gray."""
FEW_GRAY = 0.2
"""Gray images are pointed out up to this fraction; with more, gray is what these images are."""
UNEVEN = 5
"""Classes whose image counts differ by more than this factor are pointed out."""


# --------------------------------------------------------------------- from a listing and headers


def _misnamed(data: Audited) -> Finding | None:
    """Files whose ending names another format than their content has."""
    wrong = np.zeros(len(data.index), bool)
    for format in FORMATS:
        own = np.flatnonzero(data.index.formats == format.name.encode())
        paths = pc.utf8_lower(data.index.paths.take(pa.array(own)))
        right = np.zeros(len(own), bool)
        for ending in format.endings:
            right |= pc.ends_with(paths, ending).to_numpy(zero_copy_only=False)
        wrong[own[~right]] = True
    return Finding.counted(
        "wrong-ending",
        [(data.image(at, f"is {data.index.formats[at].decode()}"),) for at in np.flatnonzero(wrong).tolist()],
        "file(s) with the ending of another format",
        "None here, where the content decides; tools that go by the ending skip such files or stop at them",
        "Rename them if other tools read this folder",
    )


def _reading(data: Audited) -> Finding | None:
    """How DATA was read, where that is not plain."""
    if not data.index.notes:
        return None
    advice = "If that is not what was meant, rename them or give the option that says so"
    return Finding("reading", "How folders and names were read", "; ".join(data.index.notes), advice)


def _tiny(data: Audited) -> Finding | None:
    """Images of a few pixels."""
    small = np.flatnonzero(np.minimum(data.index.widths, data.index.heights) < TINY)
    mostly = data.mostly(small)
    usual = "They are enlarged many times, to a blur that carries little of the class"
    return Finding.counted(
        "tiny",
        [(data.image(at, _pixels(data, at)),) for at in small.tolist()],
        f"image(s) smaller than {TINY} pixels",
        f"{mostly}: the blur of enlarging may give the class away" if mostly else usual,
        "Check whether they are thumbnails or icons that were swept up, and exclude those",
        serious=bool(mostly),
    )


def _elongated(data: Audited) -> Finding | None:
    """Images so long that their ends are cut off."""
    sides = np.sort(np.stack([data.index.widths, data.index.heights]), axis=0)
    long = np.flatnonzero(sides[1] > MAX_ASPECT * sides[0])
    return Finding.counted(
        "odd-aspect",
        [(data.image(at, _pixels(data, at)),) for at in long.tolist()],
        f"image(s) more than {MAX_ASPECT} times as long as wide",
        f"Only the middle {MAX_ASPECT}:1 of them is used: what the label means may be in the ends",
        "Crop them to what the label means",
    )


def _pixels(data: Audited, at: int) -> str:
    return f"{data.index.widths[at]} x {data.index.heights[at]}"


def _named_groups(data: Audited) -> Finding | None:
    """File names that look like groups (patients, films, places) with images on more than one side of the split."""
    return _mixed_groups(
        data,
        name_groups(data.index),
        "name-groups",
        "in file names on more than one side of the split",
        "If names that begin alike are of one patient, film or place, it is recalled rather than recognized",
        "If they are groups, name them in the column group of a manifest: each is then kept on one side",
        mark="…",
    )


def _declared_groups(data: Audited) -> Finding | None:
    """Groups that DATA declares with images on more than one side of the split that it declares too."""
    return _mixed_groups(
        data,
        NameGroups.of(data.index.groups.to_pylist()),
        "groups",
        "on more than one side of the declared split",
        "What belongs together is recalled rather than recognized",
        "Declare one side for each group, or let --regroup draw the split again for these",
    )


def _mixed_groups(
    data: Audited, groups: NameGroups | None, kind: str, where: str, effect: str, advice: str, mark: str = ""
) -> Finding | None:
    """The groups with images on several sides, the largest first."""
    if groups is None:
        return None
    mixed = sorted(data.across(groups.positions()), key=lambda group: (-len(group), group))
    exposed = data.exposed(mixed)
    return Finding.counted(
        kind,
        data.together(mixed),
        f"of {len(groups.names):,} groups {where}",
        f"{effect}: {exposed[:1].lower()}{exposed[1:]}",
        advice,
        names=[f"{groups.names[int(groups.codes[group[0]])]}{mark} ({len(group)} images)" for group in mixed],
        serious=True,
    )


def _uneven(data: Audited) -> Finding | None:
    """Classes of very different sizes."""
    counts = data.index.class_counts()
    few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[many] <= UNEVEN * counts[few]:
        return None
    share = 100 * counts[many] / len(data.index)
    return Finding(
        "imbalance",
        f"Classes are uneven: {counts[many]:,} images of {shown(many)!r}, {counts[few]:,} of {shown(few)!r}",
        f"Always predicting {shown(many)!r} is right {share:.0f} % of the time, "
        f"and {shown(few)!r} is learned from little",
        "Read F1 by class rather than accuracy; try --class-weights balanced",
        serious=True,
    )


# ------------------------------------------------------------------------------ copies


def _copies_of(data: Audited) -> Groups:
    """Equal images: by pixels where they were decoded, else by bytes."""
    return same_pixels(data.statistics) if len(data.statistics) else data.index.duplicates()


def _conflicts(data: Audited) -> Finding | None:
    """The same image under different labels."""
    found = data.of_several_classes(_copies_of(data))
    return Finding.counted(
        "conflicts",
        data.together(found),
        "image(s) with different labels",
        f"At least one label of each is wrong: {sum(map(len, found)):,} images pull training both ways, "
        "and in the test one of each pair counts as a mistake whatever is predicted",
        "Find out which label is right and remove the other copy; until then exclude all copies",
        serious=True,
    )


def _leaks(data: Audited) -> Finding | None:
    """The same image on more than one side of the split."""
    found = data.across(_copies_of(data))
    return Finding.counted(
        "leaks",
        data.together(found),
        "image(s) on more than one side of the split",
        data.exposed(found),
        "Keep one copy; where the split is not declared, copies with equal bytes are kept on one side",
        serious=True,
    )


def _copies(data: Audited) -> Finding | None:
    """The same image more than once."""
    found = _copies_of(data)
    extra = sum(len(group) - 1 for group in found)
    return Finding.counted(
        "copies",
        data.together(found),
        f"image(s) with duplicates (equal {'pixels' if len(data.statistics) else 'bytes'})",
        f"{extra:,} of {len(data.index):,} images add nothing new, and copies count again in training and scores",
        "Keep one of each",
    )


# ------------------------------------------------------------------------------------ from pixels


def _blank(data: Audited) -> Finding | None:
    """Images that show nothing."""
    found = blank(data.statistics)
    if _dim(data):  # only their own white tells what they show
        found = found[data.statistics["peak"][found] == 0]
    mostly = data.mostly(found)
    return Finding.counted(
        "blank",
        data.alone(found),
        "blank image(s)",
        f"{mostly}: emptiness is learned as that class" if mostly else "They show nothing that their label could mean",
        "Exclude them",
        serious=bool(mostly),
    )


def _dim(data: Audited) -> Finding | None:
    """Images of more than 8 bits none of which comes near the white of 16."""
    return too_dark(data.statistics["peak"][data.statistics["peak"] > 0])


def too_dark(peaks: Sequence[float] | npt.NDArray[np.float32]) -> Finding | None:
    """The finding on images of more than 8 bits from the greatest value of each; None where they are bright enough."""
    peak = float(max(peaks, default=0))
    bits = bits_of(peak)
    if bits is None:
        return None
    images = "the one image" if len(peaks) == 1 else f"{len(peaks):,} images"
    return Finding(
        "scale",
        f"{bits} bits in 16? No value of {images} of more than 8 bits is above {peak:,.0f}",
        f"White of 16 bits is 65,535, so they come out {65535 / (2**bits - 1):,.0f} times too dark",
        f"Give the value of white, to scan and to train: --scale {2**bits - 1}",
        serious=True,
    )


def _gray(data: Audited) -> Finding | None:
    """A few gray images among color."""
    found = np.flatnonzero((data.statistics["color"] <= GRAY) & (data.statistics["contrast"] >= BLANK))
    if len(found) > FEW_GRAY * len(data.index):
        return None
    mostly = data.mostly(found)
    return Finding.counted(
        "gray",
        data.alone(found),
        "gray image(s) among color",
        f"{mostly}: the lack of color may be learned instead of the class"
        if mostly
        else "Little, as long as all classes have some; color is no cue in them",
        "Check whether they come from another source than the rest",
        serious=bool(mostly),
    )


def _near(data: Audited) -> Finding | None:
    """Near-duplicate images: resized, recompressed, recolored."""
    found = near_duplicates(data.statistics)
    if found is None:
        return Finding(
            "near",
            "The images are too alike to tell near-duplicates from others",
            "Unknown: near-duplicates may be on both sides of the split",
            "Where several are of one thing, name the groups in the column group of a manifest",
        )
    across, mixed = data.across(found), data.of_several_classes(found)
    effect = f"{len(mixed):,} of them with different labels. " if mixed else ""
    effect += data.exposed(across) if across else "None is on two sides of the split; they count more than once"
    return Finding.counted(
        "near",
        data.together(list(dict.fromkeys([*across, *mixed, *found]))),
        "set(s) of near-duplicate images",
        effect,
        "Compare them; keep one of each, or give them one name in the column group of a manifest",
        serious=bool(across or mixed),
    )


_CHECKS: tuple[Callable[[Audited], Finding | None], ...] = (
    _dim,
    _conflicts,
    _leaks,
    _near,
    _declared_groups,
    _named_groups,
    _uneven,
    _blank,
    _gray,
    _tiny,
    _elongated,
    _copies,
    _misnamed,
    _reading,
)
"""In the order in which they matter."""


def run_checks(data: Audited) -> list[Finding]:
    """All findings, serious ones first, then files that cannot be used. Without statistics: all that need no pixels."""
    found = [finding for one in _CHECKS if (finding := one(data)) is not None]
    return sorted(found, key=lambda finding: not finding.serious) + unusable(data.index.quarantined)
