import contextlib
import gzip
import io
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hypereyes_jax.env.media.images import (
    ImageError,
    ImageLimits,
    data_uri,
    decode_image,
    displayed_size,
    encode_image,
    read_base64_image,
    to_rgb,
    upright,
)


def saved(format, image=None, **options):
    out = io.BytesIO()
    (image or Image.linear_gradient("L").convert("RGB")).save(out, format, **options)
    return out.getvalue()


def png_claiming(width, height):
    """A PNG whose header claims a size, with hardly any data behind it."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_ordinary_images_decode(format):
    assert decode_image(saved(format)).size == (256, 256)
    assert decode_image(saved(format) + b"\0" * 100).mode == "RGB"  # block padding


@pytest.mark.parametrize("size", [(60_000, 60_000), (60_000, 1), (1, 60_000), (16_000, 16_000)])
def test_bombs_and_huge_sides_are_refused(size):
    with pytest.raises(ImageError, match="too large"):
        decode_image(png_claiming(*size))


def test_a_bomb_costs_no_memory():
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]);"
        "from hypereyes_jax.env.media.images import *; from tests.env.media.test_images import png_claiming;"
        "data = png_claiming(60_000, 60_000); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: decode_image(data)\n"
        "except ImageError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, timeout=60, cwd=root)
    assert int(done.stdout) < 20_000, done.stderr  # KiB; decoded it would be 10 GB


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_polyglots_are_refused(format):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("payload.html", "<script>alert(1)</script>")
    for tail in (archive.getvalue(), b"<html><script>alert(1)</script>", b"%PDF-1.4", b"\x00x"):
        with pytest.raises(ImageError, match="has data after"):
            decode_image(saved(format) + tail)
        assert decode_image(saved(format) + tail, ImageLimits(trailing_data=True)).size == (256, 256)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_broken_files_are_refused(format):
    data = saved(format)
    for wrong in (data[: len(data) // 2], data[:20], b"", b"GIF89a", b"<svg/>", data[4:]):
        with pytest.raises(ImageError):
            decode_image(wrong)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (saved("BMP"), "it is a BMP image; convert it to PNG or JPEG"),
        (saved("TIFF"), "it is a TIFF image; convert"),
        (saved("ICO"), "it is an icon; convert"),
        (saved("PPM"), "not a readable JPEG, PNG, WebP or GIF image$"),
        (saved("JPEG2000"), "it is a JPEG 2000 image; convert"),
        (b"\xff\n" + b"\0" * 40, "it is a JPEG XL image; convert"),
        (b"\n <!DOCTYPE html><p>403", "it is a page of HTML, as of an error or a login; fetch the image itself"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS, .* git lfs pull"),
        (b"", "the file is empty"),
        (b"\0" * 4096, "the file is empty"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "it is XML, as an SVG drawing or an error"),
        (b"<!-- drawn -->\n<svg/>", "it is HTML or XML, as a page or an SVG drawing is"),
        (b"\n{'error': 'forbidden'}".replace(b"'", b'"'), "it is JSON, as of an error of a server"),
        (b"\0\0\0\x18ftypmp42" + bytes(99), r"it is a video \(MP4 or QuickTime\); give it as a video"),
        (b"\0\0\0\x18ftypavif" + bytes(99), "it is a HEIC or AVIF image; convert it to JPEG"),
        (b"\x1a\x45\xdf\xa3" + bytes(99), r"it is a video \(WebM or Matroska\); give it as a video"),
        (b"RIFF\x24\0\0\0AVI LIST" + bytes(99), r"it is a video \(AVI\); give it as a video"),
        (gzip.compress(saved("PNG")), "it is compressed by gzip; unpack it first"),
        (b"PK\3\4" + bytes(99), "it is a ZIP archive; unpack it first"),
        (pickle.dumps(Image.new("L", (4, 4))), "it is a pickle, which is never read; save it as PNG or JPEG"),
        (b"\x93NUMPY\1\0v\0", "it is an array of NumPy; save it as PNG or JPEG"),
        (saved("TIFF", big_tiff=True), "it is a TIFF image; convert"),
        (saved("DDS", Image.new("RGBA", (4, 4))), r"it is a texture \(DDS\); convert"),
        (saved("PNG")[:20] + b"\xff" + saved("PNG")[21:], "the file is damaged at its beginning; download it again"),
    ],
)
def test_what_is_no_image_that_is_read_is_told_by_what_it_is(data, what):
    with pytest.raises(ImageError, match=what):
        decode_image(data)
    with pytest.raises(ImageError, match=what):
        displayed_size(io.BytesIO(data))


def test_too_many_bytes_are_refused():
    with pytest.raises(ImageError, match="at most 10"):
        decode_image(saved("PNG"), ImageLimits(max_bytes=10))


SAMPLES = [saved(format) for format in ("JPEG", "PNG", "WEBP", "GIF")]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6), st.data())
def test_damaged_bytes_give_an_image_or_an_image_error(data, edits, draw):
    damaged = bytearray(data[: draw.draw(st.integers(0, len(data)))] if draw.draw(st.booleans()) else data)
    for position, value in edits:
        if position < len(damaged):
            damaged[position] = value
    limits = ImageLimits(max_pixels=1_000_000)
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(damaged), limits).mode == "RGB"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_error(data):
    with pytest.raises(ImageError):
        decode_image(data)


def test_what_goes_out_has_no_metadata_and_fits():
    exif = Image.Exif()
    exif[0x010E] = "a secret description"
    data = saved("JPEG", Image.new("RGB", (3000, 100)), exif=exif)
    assert b"secret" in data
    out = encode_image(decode_image(data))
    assert b"secret" not in out
    assert decode_image(out).size == (1024, 34)


def test_transparency_becomes_white():
    assert to_rgb(Image.new("RGBA", (2, 2), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("LA", (2, 2), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_base64_with_and_without_its_prefix():
    image = Image.linear_gradient("L").convert("RGB")
    uri = data_uri(image, "PNG")
    assert read_base64_image(uri).tobytes() == image.tobytes()
    assert read_base64_image(uri.partition(",")[2]).tobytes() == image.tobytes()
    for wrong in ("data:image/png;base64,@@@", "abc", "", "é"):
        with pytest.raises(ImageError):
            read_base64_image(wrong)
    with pytest.raises(ImageError, match="too long"):
        read_base64_image(uri, ImageLimits(max_bytes=100))


def png(width, height, depth, kind, rows, transparent=None):
    """A PNG of any depth and colour type, from the bytes of its rows; `transparent` is its tRNS chunk."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    extra = b"" if transparent is None else chunk(b"tRNS", transparent)
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (png(2, 1, 8, 2, [b"\xff\0\0\0\xff\0"], struct.pack(">HHH", 255, 0, 0)), [(255, 255, 255), (0, 255, 0)]),
        (png(2, 1, 16, 0, [struct.pack(">HH", 0, 0x8000)], struct.pack(">H", 0)), [(255, 255, 255), (128, 128, 128)]),
        (png(2, 1, 16, 2, [struct.pack(">6H", 65535, 0, 0, 0, 0x8000, 0)]), [(255, 0, 0), (0, 128, 0)]),
        (png(2, 1, 16, 4, [struct.pack(">4H", 0, 0, 0x8000, 65535)]), [(255, 255, 255), (128, 128, 128)]),
        (png(8, 1, 1, 0, [b"\xaa"]), [(255, 255, 255), (0, 0, 0)]),
        (png(8, 1, 1, 0, [b"\x7f"], struct.pack(">H", 0)), [(255, 255, 255), (255, 255, 255)]),
    ],
)
def test_every_depth_and_transparency_of_png_is_shown_on_white(data, pixels):
    image = decode_image(data)
    assert [image.getpixel((x, 0)) for x in range(2)] == pixels


def test_cmyk_and_a_phones_jpeg_of_several_pictures_are_shown():
    red = Image.new("RGB", (64, 48), "red")
    shown = np.asarray(decode_image(saved("JPEG", red.convert("CMYK"))))
    assert np.abs(shown - (255, 0, 0)).max() <= 4  # what JPEG loses
    several = saved("MPO", red, save_all=True, append_images=[Image.new("RGB", (64, 48), "blue")])
    assert np.abs(np.asarray(decode_image(several)) - (255, 0, 0)).max() <= 4
    with pytest.raises(ImageError, match="data after the end"):
        decode_image(several + b"PK")


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_heic_and_avif_are_refused_with_what_to_do(brand):
    with pytest.raises(ImageError, match="convert it to JPEG"):
        decode_image(b"\0\0\0\x18ftyp" + brand + bytes(200))


@pytest.mark.parametrize(("width", "height"), [(0, 4), (4, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(width, height):
    with pytest.raises(ImageError):
        decode_image(png(width, height, 8, 2, []))
    with pytest.raises(ImageError):
        decode_image(b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0;")


def test_grey_png_of_16_bits_keeps_its_ramp():
    ramp = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    shown = np.asarray(decode_image(buffer.getvalue()))
    assert shown.shape == (4, 256, 3)
    assert np.array_equal(shown[..., 0], ramp >> 8)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_picture_is_that_of_transformers(orientation, tmp_path):
    from transformers.image_utils import load_image

    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(pixels).save(path, exif=exif)
    image = decode_image(path.read_bytes())
    assert np.array_equal(np.asarray(image), np.asarray(load_image(str(path))))
    assert np.array_equal(np.asarray(upright(image)), np.asarray(image))  # once is enough
    assert displayed_size(path.read_bytes()) == image.size


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_is_cut_short_is_told_from_one_that_goes_on(format):
    data = saved(format)
    with pytest.raises(ImageError, match="cut short") as told:
        decode_image(data[: len(data) // 2])
    assert "has data after" not in str(told.value)
