import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from tests.conftest import draw
from upcycle.audit import alike
from upcycle.audit.alike import blank, near, same_pixels
from upcycle.audit.facts import RECORD, Facts, inspect
from upcycle.data.worker import ImageStatistics, image_statistics


def photo(seed: int, side: int = 160) -> Image.Image:
    """Blobs of color at several scales, as a photograph has them."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((side, side, 3))
    for cells, share in ((4, 0.6), (9, 0.3), (24, 0.1)):
        blobs = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += share * np.asarray(blobs.resize((side, side), Image.Resampling.BICUBIC))
    return Image.fromarray(pixels.astype(np.uint8))


def seen(image: Image.Image, kind: str = "PNG", **settings: object) -> ImageStatistics:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return image_statistics(buffer.getvalue())


def facts_of(*looks: ImageStatistics) -> Facts:
    facts = np.zeros(len(looks), RECORD)
    for at, one in enumerate(looks):
        for name in ("perceptual", "contrast", "color"):
            facts[name][at] = getattr(one, name)
        facts["pixels"][at], facts["small"][at] = one.pixels.encode(), one.small
    return facts


def test_equal_pixels_are_found_whatever_the_format() -> None:
    one, other = photo(1), photo(2)
    assert [(0, 2)] == same_pixels(facts_of(seen(one), seen(other), seen(one, "BMP"), seen(one, "JPEG")))


def test_resized_recompressed_and_brightened_pictures_are_near_and_others_are_not() -> None:
    one = photo(1)
    variants = [
        seen(one),
        seen(photo(2)),
        seen(one.resize((90, 90), Image.Resampling.LANCZOS)),
        seen(photo(3)),
        seen(one, "JPEG", quality=30),
        seen(ImageEnhance.Brightness(one).enhance(0.7)),
        seen(one.convert("L")),
    ]
    assert [(0, 2, 4, 5, 6)] == near(facts_of(*variants))


def test_copies_alone_are_not_near() -> None:
    assert [] == near(facts_of(seen(photo(1)), seen(photo(1)), seen(photo(2))))


def test_unlike_photos_are_not_near() -> None:
    assert [] == near(facts_of(*(seen(photo(seed)) for seed in range(60))))


def test_blank_images_are_blank_and_never_near() -> None:
    random = np.random.default_rng(0)
    noise = [np.clip(random.normal(250, 1.5, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(4)]
    facts = facts_of(*(seen(Image.fromarray(pixels)) for pixels in noise), seen(draw(0, 1)))
    assert [0, 1, 2, 3] == blank(facts).tolist()
    assert [] == near(facts)


def test_every_pair_within_four_bits_is_found() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 400, dtype=np.uint64)
    for at in range(0, 400, 2):  # a neighbour at 0 to 6 bits
        flipped = random.choice(64, at // 2 % 7, replace=False)
        hashes[at + 1] = hashes[at] ^ np.bitwise_or.reduce(np.uint64(1) << flipped.astype(np.uint64), initial=0)
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    expected = {(int(i), int(j)) for i, j in zip(*np.nonzero(apart <= 4), strict=True) if i < j}
    found = [pair for one, other in alike._close(hashes) for pair in zip(one.tolist(), other.tolist(), strict=True)]
    assert sorted(expected) == sorted(found)
    assert 100 < len(expected) < 200


def test_pictures_too_alike_to_tell_apart_are_said_to_be() -> None:
    one = facts_of(seen(photo(1)))
    facts = np.repeat(one, 200)
    facts["pixels"] = [f"{at:032}".encode() for at in range(200)]
    assert near(facts) is None


def test_copies_of_a_picture_keep_no_near_ones_from_being_found() -> None:
    random = np.random.default_rng(0)
    others = facts_of(*(seen(photo(seed)) for seed in range(20)), seen(photo(3).resize((120, 90))))
    facts = np.concatenate([np.repeat(facts_of(seen(draw(0, 1))), 400), others])
    facts = facts[random.permutation(len(facts))]
    pictures = {bytes(facts["pixels"][at]): at for at in range(len(facts))}
    expected = {pictures[bytes(other["pixels"])] for other in (others[3], others[20])}
    assert [expected] == [set(group) for group in near(facts) or []]


def test_near_pictures_bring_their_copies_along() -> None:
    one, other = seen(photo(1)), seen(photo(1).resize((120, 90)))
    assert [(0, 1, 3)] == near(facts_of(one, other, seen(photo(2)), one))


def test_the_near_duplicates_of_real_photos(assets: Path, tmp_path: Path) -> None:
    index, facts = inspect(assets / "data" / "flowers5", folder=tmp_path)
    groups = near(facts) or []
    assert 6 == len(same_pixels(facts))
    assert 17 == len(groups)
    named = [tuple(index.path(at) for at in group) for group in groups]
    assert ("tulip/7166567320_0a2beb6d42.jpg", "tulip/7166567320_0a2beb6d42_n.jpg") in named
    assert all(len({index.label(at) for at in group}) == 1 for group in groups)


def test_memory_does_not_grow_with_the_square_of_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    random = np.random.default_rng(0)
    facts = np.zeros(20_000, RECORD)
    facts["perceptual"] = random.integers(0, 2**63, len(facts), dtype=np.uint64)
    facts["contrast"] = 50
    facts["small"] = np.frombuffer(random.integers(0, 256, (len(facts), 256), dtype=np.uint8).tobytes(), "V256")
    facts["pixels"] = [f"{at:032}".encode() for at in range(len(facts))]
    tracemalloc.start()
    assert [] == near(facts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # all pairs at a byte each would be 400 MB
