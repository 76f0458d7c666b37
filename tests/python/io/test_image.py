# SPDX-License-Identifier: Apache-2.0
"""read_image against Pillow, bit for bit, over the formats and modes that turn up in data sets."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

import instseg

Array = npt.NDArray[np.uint8]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def picture(height: int = 75, width: int = 101, seed: int = 0) -> Image.Image:
    """Smooth colours with noise: exercises chroma upsampling and every DCT coefficient."""
    rng = np.random.default_rng(seed)
    colours = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> Array:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def check(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    np.testing.assert_array_equal(instseg.read_image(path), by_pillow(data))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg(tmp_path: Path, subsampling: str, quality: int, progressive: bool) -> None:
    check(
        tmp_path,
        encoded(picture(), "JPEG", subsampling=subsampling, quality=quality, progressive=progressive),
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (8, 8), (17, 16)])
def test_jpeg_sizes(tmp_path: Path, height: int, width: int) -> None:
    check(tmp_path, encoded(picture(height, width), "JPEG"))


def test_jpeg_grey(tmp_path: Path) -> None:
    check(tmp_path, encoded(picture().convert("L"), "JPEG"))


def test_jpeg_stored_as_rgb(tmp_path: Path) -> None:
    check(tmp_path, encoded(picture(), "JPEG", keep_rgb=True))


def ink() -> Image.Image:
    """CMYK with black ink, which convert("CMYK") alone never makes."""
    planes = [plane for seed in (1, 2) for plane in picture(seed=seed).split()[:2]]
    return Image.merge("CMYK", planes)


def test_jpeg_cmyk(tmp_path: Path) -> None:
    data = encoded(ink(), "JPEG")
    assert b"Adobe" in data
    check(tmp_path, data)


def test_jpeg_cmyk_without_adobe_marker(tmp_path: Path) -> None:
    data = encoded(ink(), "JPEG")
    start = data.index(b"\xff\xee")
    size = 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    check(tmp_path, data[:start] + data[start + size :])


def test_jpeg_ycck(tmp_path: Path) -> None:
    """The same coefficients declared YCCK: the last byte of Adobe's marker is the transform."""
    data = bytearray(encoded(ink(), "JPEG"))
    data[data.index(b"\xff\xee") + 15] = 2
    check(tmp_path, bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    check(tmp_path, encoded(picture(), kind, exif=exif))


def test_exif_beside_other_tags(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = 6
    exif[0x0132] = "2020:01:01 00:00:00"
    check(tmp_path, encoded(picture(), "JPEG", exif=exif))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes(tmp_path: Path, mode: str) -> None:
    image = picture().convert(mode)
    if mode.endswith("A"):
        image.putalpha(picture(seed=3).convert("L"))
    check(tmp_path, encoded(image, "PNG"))


def test_png_transparency_is_dropped(tmp_path: Path) -> None:
    check(tmp_path, encoded(picture().convert("P"), "PNG", transparency=3))
    check(tmp_path, encoded(picture().convert("L"), "PNG", transparency=100))
    check(tmp_path, encoded(picture(), "PNG", transparency=(1, 2, 3)))


def adam7(height: int, width: int) -> list[tuple[range, range]]:
    starts = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    return [(range(y, height, dy), range(x, width, dx)) for y, x, dy, dx in starts]


def make_png(depth: int, color: int, interlaced: bool, palette: bytes = b"", size: int = 13) -> bytes:
    """A PNG of random samples in any of the 15 kinds, written by hand: Pillow cannot write most of them."""
    rng = np.random.default_rng(depth * 10 + color)
    height, width, channels = size, size + 6, PNG_CHANNELS[color]
    bits = rng.integers(0, 2, (height, width, channels * depth), dtype=np.uint8)
    if depth == 16:
        bits[::3, :, :8] = 0  # values below 256, which Pillow does not clip
    passes = adam7(height, width) if interlaced else [(range(height), range(width))]
    raw = b""
    for rows, columns in passes:
        if rows and columns:
            for row in rows:
                raw += b"\0" + np.packbits(bits[row, list(columns)].reshape(-1)).tobytes()

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    png = PNG_SIGNATURE + chunk(b"IHDR", header)
    if palette:
        png += chunk(b"PLTE", palette)
    return png + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("depth", "color"),
    [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (16, 4), (8, 6), (16, 6)],
)
def test_png_kinds(tmp_path: Path, depth: int, color: int, interlaced: bool) -> None:
    check(tmp_path, make_png(depth, color, interlaced))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_png_palettes(tmp_path: Path, depth: int, interlaced: bool) -> None:
    palette = np.random.default_rng(depth).integers(0, 256, 3 << depth, dtype=np.uint8).tobytes()
    check(tmp_path, make_png(depth, 3, interlaced, palette))


def test_png_palette_too_short(tmp_path: Path) -> None:
    check(tmp_path, make_png(8, 3, False, bytes(range(30))))


def test_grey_16_bit_is_clipped(tmp_path: Path) -> None:
    """What convert("RGB") does, however unhelpful; docs/preprocessing.md tells how to scale instead."""
    path = tmp_path / "grey.png"
    Image.fromarray(np.array([[0, 255, 256, 65535]], np.uint16)).save(path)
    assert instseg.read_image(path)[0, :, 0].tolist() == [0, 255, 255, 255]


@pytest.mark.parametrize("extension", ["png", "PNG"])
def test_png_round_trip(tmp_path: Path, extension: str) -> None:
    image = np.asarray(picture())
    path = tmp_path / f"out.{extension}"
    instseg.write_image(path, image)
    np.testing.assert_array_equal(instseg.read_image(path), image)
    np.testing.assert_array_equal(by_pillow(path.read_bytes()), image)


@pytest.mark.parametrize("extension", ["jpg", "jpeg"])
def test_jpeg_round_trip(tmp_path: Path, extension: str) -> None:
    image = np.asarray(picture())
    path = tmp_path / f"out.{extension}"
    instseg.write_image(path, image)
    assert Image.open(path).format == "JPEG"
    np.testing.assert_array_equal(instseg.read_image(path), by_pillow(path.read_bytes()))
    assert np.abs(instseg.read_image(path).astype(int) - image).mean() < 8


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(picture(), "PNG"))
    np.testing.assert_array_equal(instseg.read_image(path), np.asarray(picture()))


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    with pytest.raises(OSError, match=r"x\.jpg"):
        instseg.read_image(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.jpg: file is empty"):
        instseg.read_image(path)
    path.write_bytes(b"<!doctype html>")
    with pytest.raises(ValueError, match=r"x\.jpg"):
        instseg.read_image(path)
    for kind in ("JPEG", "PNG"):
        data = encoded(picture(), kind)
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match=r"x\.jpg: is truncated"):
            instseg.read_image(path)
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"101x75 = 7575 pixels exceeds the limit of 7574"):
            instseg.read_image(path, pixel_limit=7574)


def test_bad_outputs(tmp_path: Path) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match=r"extension is not \.png, \.jpg or \.jpeg"):
        instseg.write_image(tmp_path / "x.bmp", image)
    with pytest.raises(OSError, match="nowhere"):
        instseg.write_image(tmp_path / "nowhere" / "x.png", image)
