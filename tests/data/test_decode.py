import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from upcycle.data import decode
from upcycle.data.preprocessing import Decoding
from upcycle.errors import DecodeError

NUMBERED = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def orientation_tag(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def photo(width: int, height: int) -> Image.Image:
    """A smooth picture whose left is dark and top is red."""
    down, across = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 - 255 * down // height, 255 * across // width, 0 * down], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def load(source: decode.ImageSource, side: int = 8) -> np.ndarray:
    return decode.load_image(source, Decoding(side, "bilinear"))


def gray(image: Image.Image) -> list[list[int]]:
    pixels = np.asarray(decode._rgb(image, 1))
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0].tolist()


def test_gray_is_repeated_over_the_channels() -> None:
    assert gray(Image.fromarray(NUMBERED)) == [[10, 20, 30], [40, 50, 60]]


def test_one_bit_images_become_black_and_white() -> None:
    assert gray(Image.fromarray(np.array([[True, False]]))) == [[255, 0]]


def test_a_16_bit_png_is_scaled_by_its_depth() -> None:
    stored = encoded(Image.fromarray(np.array([[0, 257, 0x8000, 65535]], np.uint16)))
    assert gray(Image.open(io.BytesIO(stored))) == [[0, 1, 128, 255]]


def test_a_16_bit_big_endian_image_is_scaled_by_its_depth() -> None:
    image = Image.frombytes("I;16B", (2, 1), b"\x80\x00\xff\xff")
    assert gray(image) == [[128, 255]]


def test_32_bit_integers_that_fit_into_16_are_scaled_as_those() -> None:
    assert gray(Image.fromarray(np.array([[0, 257, 65535]], np.int32))) == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 7, 254.6], [0, 7, 255]),
        ([0, 257, 65535], [0, 1, 255]),
    ],
)
def test_floats_are_scaled_by_the_range_that_holds_them(values: list[float], expected: list[int]) -> None:
    assert gray(Image.fromarray(np.array([values], np.float32))) == [expected]


def test_floats_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DecodeError, match=r"^holds values that are not finite$"):
        decode._rgb(Image.fromarray(np.array([[0, np.nan]], np.float32)), 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa"])
def test_alpha_is_composited_on_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(0, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 51)])
    assert gray(image.convert(mode)) == [[0, 255, 204]]


def test_the_transparent_entry_of_a_palette_becomes_white() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200])
    stored = encoded(image, transparency=1)
    pixels = np.asarray(decode.whole(stored)[0]).tolist()
    assert pixels == [[[0, 0, 0], [255, 255, 255], [0, 0, 200]]]


def test_a_palette_with_an_alpha_for_each_entry_is_composited() -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([0, 0, 0, 100, 100, 100])
    stored = encoded(image, transparency=bytes([51, 255]))
    assert gray(Image.open(io.BytesIO(stored))) == [[204, 100]]


def test_the_transparent_colour_of_an_rgb_png_becomes_white() -> None:
    image = Image.fromarray(np.array([[[9, 9, 9], [8, 8, 8]]], np.uint8))
    stored = encoded(image, transparency=(9, 9, 9))
    assert gray(Image.open(io.BytesIO(stored))) == [[255, 8]]


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    stored = encoded(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "JPEG", quality=95)
    pixels = load(stored)
    assert np.abs(pixels.astype(int) - [200, 40, 90]).max() <= 3


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    stored = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load(stored)[0, 0].tolist() == [255, 0, 0]


UPRIGHT = {
    1: [[10, 20, 30], [40, 50, 60]],
    2: [[30, 20, 10], [60, 50, 40]],
    3: [[60, 50, 40], [30, 20, 10]],
    4: [[40, 50, 60], [10, 20, 30]],
    5: [[10, 40], [20, 50], [30, 60]],
    6: [[40, 10], [50, 20], [60, 30]],
    7: [[60, 30], [50, 20], [40, 10]],
    8: [[30, 60], [20, 50], [10, 40]],
}


@pytest.mark.parametrize(("orientation", "upright"), UPRIGHT.items())
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int, upright: list[list[int]]) -> None:
    stored = encoded(Image.fromarray(NUMBERED), kind, exif=orientation_tag(orientation))
    assert load(stored, side=2)[:, :, 0].tolist() == upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_the_size_in_the_header_is_that_of_the_upright_image(kind: str, orientation: int) -> None:
    stored = encoded(photo(30, 20), kind, exif=orientation_tag(orientation))
    expected = (30, 20) if orientation <= 4 else (20, 30)
    assert decode.header(stored)[:2] == expected
    assert decode.whole(stored)[0].size == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_decoded_at_reduced_scale_is_upright_too(orientation: int) -> None:
    upright = photo(805, 603)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    turned = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    stored = encoded(turned, "JPEG", quality=98, subsampling=0, exif=orientation_tag(orientation))
    difference = np.abs(load(stored, side=96).astype(int) - load(upright, side=96))
    assert difference.max() <= 3


def test_an_exif_block_behind_the_pixels_of_a_png_counts() -> None:
    block = b"eXIf" + orientation_tag(6)[6:]
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    stored = encoded(Image.fromarray(NUMBERED))
    stored = stored[:-12] + chunk + stored[-12:]
    assert decode.header(stored)[:2] == (2, 3)
    assert load(stored, side=2)[:, :, 0].tolist() == UPRIGHT[6]


def test_an_open_picture_is_turned_as_its_file_is() -> None:
    block = b"eXIf" + orientation_tag(6)[6:]
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    stored = encoded(Image.fromarray(NUMBERED))
    picture = Image.open(io.BytesIO(stored[:-12] + chunk + stored[-12:]))
    assert load(picture, side=2)[:, :, 0].tolist() == UPRIGHT[6]


def test_a_png_with_megabytes_of_text_or_profile_is_whole() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    image = Image.fromarray(NUMBERED)
    for stored in (encoded(image, pnginfo=text), encoded(image, icc_profile=b"p" * 3_000_000)):
        assert load(stored, side=2)[:, :, 0].tolist() == UPRIGHT[1]


def test_a_jpeg_of_several_pictures_is_a_jpeg() -> None:
    images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    stored = encoded(images[0], "MPO", save_all=True, append_images=images[1:])
    assert decode.header(stored) == (8, 6, "JPEG")


def test_a_damaged_exif_block_means_upright() -> None:
    stored = encoded(Image.fromarray(NUMBERED), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert load(stored, side=2)[:, :, 0].tolist() == UPRIGHT[1]


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((500, 375), 256, (341, 256)),
        ((375, 500), 256, (256, 341)),
        ((50, 50), 256, (256, 256)),
        ((3, 2), 1, (2, 1)),
        ((5000, 100), 64, (256, 64)),
        ((1, 100_000), 64, (64, 256)),
        ((1, 1), 8, (8, 8)),
    ],
)
def test_the_short_side_is_fixed_and_the_long_one_is_bounded(
    size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    assert decode.target_size(*size, side) == expected


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    side=st.integers(1, 40),
    orientation=st.integers(1, 8),
    kind=st.sampled_from(["JPEG", "PNG", "BMP"]),
)
def test_load_gives_the_target_size_of_the_size_in_the_header(
    width: int, height: int, side: int, orientation: int, kind: str
) -> None:
    exif = {} if kind == "BMP" else {"exif": orientation_tag(orientation)}
    stored = encoded(Image.new("RGB", (width, height)), kind, **exif)
    wide, high = decode.target_size(*decode.header(stored)[:2], side)
    assert load(stored, side).shape == (high, wide, 3)


def test_the_middle_of_a_very_long_image_is_kept() -> None:
    strip = np.zeros((2, 24, 3), np.uint8)
    strip[:, 8:16] = 255
    assert load(Image.fromarray(strip), side=2).tolist() == np.full((2, 8, 3), 255).tolist()


def test_reduced_decoding_of_a_long_jpeg_keeps_the_middle_too() -> None:
    image = Image.new("RGB", (2400, 200))
    image.paste("white", (800, 0, 1600, 200))
    assert load(encoded(image, "JPEG"), side=25).min() >= 250


def test_reduced_decoding_stays_close_to_the_whole() -> None:
    image = photo(1000, 750)
    reduced, whole = load(encoded(image, "JPEG", quality=95), 100), load(encoded(image), 100)
    assert np.abs(reduced.astype(int) - whole).max() <= 4


def test_reduced_decoding_does_not_stretch_a_size_that_is_no_multiple_of_eight() -> None:
    image = photo(17, 17)
    reduced, whole = load(encoded(image, "JPEG", quality=98, subsampling=0), 2), load(encoded(image), 2)
    assert np.abs(reduced.astype(int) - whole).max() <= 12


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_path_bytes_image_and_array_give_the_same_pixels(tmp_path: Path, kind: str) -> None:
    image = photo(40, 30)
    file = tmp_path / "a"
    file.write_bytes(encoded(image, kind))
    expected = load(file)
    for source in (file.read_bytes(), Image.open(file), image, np.asarray(image)):
        assert (load(source) == expected).all()


def test_an_image_given_open_is_left_as_it_was() -> None:
    image = Image.open(io.BytesIO(encoded(photo(400, 300), "JPEG")))
    load(image)
    assert image.size == (400, 300)


def test_the_pixels_may_be_written_to() -> None:
    assert load(photo(9, 9)).flags.writeable


def test_other_interpolations_differ() -> None:
    image = Image.fromarray(np.array([[0, 255], [0, 255]], np.uint8))
    tops = {
        name: decode.load_image(image, Decoding(4, name))[0, :, 0].tolist()
        for name in ("nearest", "bilinear", "bicubic")
    }
    assert tops == {"nearest": [0, 0, 255, 255], "bilinear": [0, 64, 191, 255], "bicubic": [0, 53, 202, 255]}


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 1), (4, 4, 3), (4, 4, 4)])
def test_arrays_of_images_are_taken(shape: tuple[int, ...]) -> None:
    assert load(np.full(shape, 255, np.uint8), side=2).tolist() == np.full((2, 2, 3), 255).tolist()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.float32), "an array of shape 3 x 8 x 8 and type float32 is no image"),
        (np.zeros(5, np.uint8), "an array of shape 5 and type uint8 is no image"),
        (np.zeros((2, 8, 8, 3), np.uint8), "an array of shape 2 x 8 x 8 x 3 and type uint8 is no image"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(DecodeError, match=f"^{message}: give uint8, H x W x 3$"):
        load(array)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    stored = encoded(noise, kind)
    with pytest.raises(DecodeError, match=r"^damaged or cut short \(.+\)$"):
        load(stored[: len(stored) * 2 // 3])


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"^empty file \(zero bytes\)$"):
        load(b"")


@pytest.mark.parametrize("data", [b"not an image\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<x/>", b"\0"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(
        DecodeError, match=r"^not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000, PNM or HEIC image$"
    ):
        load(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_a_file_cut_within_its_header_is_told_from_one_that_is_no_image(kind: str) -> None:
    with pytest.raises(DecodeError, match=r"^(damaged or cut short \(.+\)|its header cannot be read: .+)$"):
        load(encoded(photo(40, 30), kind)[:12])


def test_the_message_names_the_file_on_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a\nb.jpg"
    file.write_bytes(b"text")
    with pytest.raises(DecodeError) as caught:
        load(file)
    assert (
        str(caught.value)
        == rf"{tmp_path}/a\nb.jpg: not a JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000, PNM or HEIC image"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        load(tmp_path / "a.jpg")
    assert str(caught.value) == f"{tmp_path / 'a.jpg'}: cannot be read (No such file or directory)"


def test_an_image_above_the_limit_is_refused_by_its_header() -> None:
    header = struct.pack(">II5B", 20_001, 10_000, 8, 2, 0, 0, 0)
    stored = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s13sI", 13, b"IHDR", header, zlib.crc32(b"IHDR" + header))
    stored += struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))
    with pytest.raises(DecodeError, match=r"^20001 x 10000 pixels are more than the limit of 200 million$"):
        decode.header(stored)[:2]


def test_pillow_and_the_warning_filters_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1234)
    filters = list(warnings.filters)
    load(encoded(photo(90, 90)))
    with pytest.raises(DecodeError):
        load(b"text")
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == (1234, filters)


def pixels_or_reason(data: bytes) -> np.ndarray | str:
    try:
        return load(data)
    except DecodeError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.integers(0, 10_000),
)
def test_damaged_bytes_give_pixels_or_a_decode_error_of_one_line(
    kind: str, damage: list[tuple[int, int]], length: int
) -> None:
    stored = bytearray(encoded(photo(16, 12), kind, exif=orientation_tag(6)))
    for place, value in damage:
        stored[place % len(stored)] = value
    outcome = pixels_or_reason(bytes(stored[: len(stored) - length % 50]))
    assert outcome.isprintable() if isinstance(outcome, str) else outcome.dtype == np.uint8


def test_a_thumbnail_is_a_small_upright_jpeg() -> None:
    stored = encoded(photo(400, 300), "JPEG", exif=orientation_tag(6))
    small = Image.open(io.BytesIO(decode.thumbnail_jpeg(stored)))
    assert (small.format, small.size) == ("JPEG", (120, 160))


def test_a_thumbnail_is_never_enlarged() -> None:
    assert Image.open(io.BytesIO(decode.thumbnail_jpeg(photo(40, 30)))).size == (40, 30)
