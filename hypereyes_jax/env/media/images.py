"""Image bytes in and out. What comes in is checked before a pixel is decoded; what goes out is always re-encoded."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import ExifTags, Image, ImageOps

from hypereyes_jax.env.media.crops import shrink

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_NO_IMAGE = "not a readable JPEG, PNG, WebP or GIF image"
_CONVERT = "convert it to PNG or JPEG"
_AS_VIDEO = "give it as a video"
_OTHERS: tuple[
    tuple[bytes, str, str], ...
] = (  # how files begin that are taken for one of them -> what it is, the cure
    (b"BM", "a BMP image", _CONVERT),
    (b"II*\0", "a TIFF image", _CONVERT),
    (b"MM\0*", "a TIFF image", _CONVERT),
    (b"II+\0", "a TIFF image", _CONVERT),
    (b"MM\0+", "a TIFF image", _CONVERT),
    (b"qoif", "a QOI image", _CONVERT),
    (b"DDS ", "a texture (DDS)", _CONVERT),
    (b"v/1\x01", "an OpenEXR image", _CONVERT),
    (b"\x1a\x45\xdf\xa3", "a video (WebM or Matroska)", _AS_VIDEO),
    (b"\x1f\x8b", "compressed by gzip", "unpack it first"),
    (b"PK\3\4", "a ZIP archive", "unpack it first"),
    (b"\x93NUMPY", "an array of NumPy", "save it as PNG or JPEG"),
    (b"\x80\4", "a pickle, which is never read", "save it as PNG or JPEG"),
    (b"\x80\5", "a pickle, which is never read", "save it as PNG or JPEG"),
    (b"\0\0\1\0", "an icon", _CONVERT),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _CONVERT),
    (b"\xffO\xffQ", "a JPEG 2000 image", _CONVERT),
    (b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image", _CONVERT),
    (b"8BPS", "a Photoshop file", _CONVERT),
    (b"%PDF", "a PDF", "save the page as PNG or JPEG"),
    (b"<svg", "an SVG drawing", "draw it as PNG first"),
    (b"<?xml", "XML, as an SVG drawing or an error of a server is", "fetch or draw the image itself"),
    (b"<!--", "HTML or XML, as a page or an SVG drawing is", "fetch or draw the image itself"),
    (b"{", "JSON, as of an error of a server", "fetch the image itself"),
    (b"<!doctype", "a page of HTML, as of an error or a login", "fetch the image itself"),
    (b"<html", "a page of HTML, as of an error or a login", "fetch the image itself"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch the file: git lfs pull"),
)
_STILLS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")  # brands of "ftyp"
_SEQUENCES = (b"hevc", b"hevx", b"msf1", b"avis")  # those that may hold several
_MAGIC = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8")  # of the formats that are read, beside WebP


class ImageError(ValueError):
    """Bytes that are not an image this project will open; the message says why."""


@dataclass(frozen=True)
class ImageLimits:
    """The largest image that is decoded."""

    max_bytes: int = 32 << 20
    max_pixels: int = 50_000_000  # 150 MB once decoded as RGB
    max_side: int = 16_384
    # Accept data behind the image's end, as some phones write it; only for a user's own files.
    trailing_data: bool = False


def decode_image(data: bytes, limits: ImageLimits | None = None) -> Image.Image:
    """Bytes -> RGB image as a viewer shows it: turned by its EXIF orientation, transparency on white, first frame.

    Raises:
      ImageError: not a JPEG, PNG, WebP or GIF from the first byte to the last (something behind the image's end makes
        it a polyglot), broken, or larger than `limits`. Size is read from the header, so a bomb costs no memory.
    """
    limits = limits or ImageLimits()
    if len(data) > limits.max_bytes:
        raise ImageError(f"the image file has {len(data):,} bytes; at most {limits.max_bytes:,} are allowed")
    with _as_image_error(data):
        image = _open(io.BytesIO(data))
        width, height = image.size
        if max(width, height) > limits.max_side or width * height > limits.max_pixels:
            raise ImageError(f"the image has {width} x {height} pixels, which is too large")
        image.load()  # first, for one that is cut short has no end, either
        if not limits.trailing_data and not _ends_as_it_should(data, image.format or ""):
            raise ImageError(f"the {image.format} file has data after the end of its image")
        return to_rgb(upright(image))


def displayed_size(source: bytes | BinaryIO | Image.Image) -> tuple[int, int]:
    """(width, height) of an image once it is upright, from its header alone. Raises ImageError."""
    with _as_image_error(source):
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        image = file if isinstance(file, Image.Image) else _open(file)
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def upright(image: Image.Image) -> Image.Image:
    """An image turned (or mirrored) as its EXIF orientation says, as every viewer shows it; others as they are."""
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB with 8 bits a channel, transparent parts on white. Grey of 16 bits keeps its upper 8, as viewers show it."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bits, or 32, in which some versions of Pillow open 16-bit files
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        deep = image.mode != "I" or grey.max(initial=0) > 255
        grey_8 = (grey >> 8 if deep else grey).astype(np.uint8)
        grey_8[grey == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey_8).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def encode_image(
    image: Image.Image, format: Literal["JPEG", "PNG"] = "JPEG", max_side: int = 1024, quality: int = 95
) -> bytes:
    """An image as a search service is sent it: RGB, at most `max_side` pixels long, no metadata.

    The defaults are the authors' published client's.
    """
    small = to_rgb(shrink(image, max_side))
    if format == "PNG":
        return png_bytes(small)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality)
    return out.getvalue()


def png_bytes(image: Image.Image) -> bytes:
    """An image as PNG, in its own mode and size."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)  # the level costs more time than the bytes cost on any network
    return out.getvalue()


def data_uri(image: Image.Image, format: Literal["JPEG", "PNG"] = "JPEG", max_side: int = 1024) -> str:
    """The image as a data URI, scaled down to `max_side` pixels a side."""
    return embedded(encode_image(image, format, max_side), format)


def embedded(data: bytes, format: Literal["JPEG", "PNG", "WEBP"]) -> str:
    """The bytes of an image file as a data URI."""
    return f"data:image/{format.lower()};base64,{base64.b64encode(data).decode('ascii')}"


def read_base64_image(text: str, limits: ImageLimits | None = None) -> Image.Image:
    """Base64, or a data URI -> RGB image. Raises ImageError."""
    limits = limits or ImageLimits()
    return decode_image(read_base64(text, limits.max_bytes), limits)


def read_base64(text: str, max_bytes: int) -> bytes:
    """What base64 holds, or a data URI, of which the payload may be percent-encoded. Raises ImageError."""
    head, payload = "", text
    if text[:64].lstrip()[:5].lower() == "data:":
        head, _, payload = text.partition(",")
    escaped = bool(head) and "%" in payload
    if len(payload) > (max_bytes * 3 if escaped else max_bytes * 4 // 3 + 4):  # an escape has three letters
        raise ImageError(f"the base64 image is too long: at most {max_bytes:,} bytes are allowed")
    data = unquote_to_bytes(payload) if escaped else payload.encode("utf-8", "replace")
    try:
        return decode_base64(data.decode("latin-1") if escaped else payload)
    except ImageError:
        if not head or head.rstrip().lower().endswith("base64"):
            raise
        return data  # as it is, like the SVG of a style sheet


def decode_base64(text: str) -> bytes:
    """Base64 -> bytes. White space, the alphabet for URLs (- and _) and absent padding are taken, as others write them.

    Raises:
      ImageError: it is anything else.
    """
    with contextlib.suppress(binascii.Error, ValueError):  # as most are: without the copies below
        return base64.b64decode(text, validate=True)
    plain = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("the image is not valid base64") from error


def _open(file: BinaryIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limits are stricter
        return Image.open(file, formats=FORMATS)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (as stored) where there is none or it means nothing."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):  # broken metadata of a whole image
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextlib.contextmanager
def _as_image_error(source: object) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("the image has far more pixels than are decoded, which is too large") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(what_it_is(_head_of(source)) or _NO_IMAGE) from error
    except (
        OSError,  # truncated
        SyntaxError,  # Pillow's word for a broken PNG
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        EOFError,
        OverflowError,
        struct.error,
    ) as error:
        if "truncated" in str(error) or _is_half_a_webp(source):  # as Pillow says of the other formats
            raise ImageError("the image is cut short; download it again") from error
        raise ImageError(f"{_NO_IMAGE} ({type(error).__name__})") from error


def _is_half_a_webp(source: object) -> bool:
    """Whether bytes are fewer than their own header says."""
    if not isinstance(source, bytes) or source[:4] != b"RIFF" or source[8:12] != b"WEBP":
        return False
    return struct.unpack_from("<I", source, 4)[0] + 8 > len(source)


def _head_of(source: object) -> bytes:
    if isinstance(source, bytes):
        return source[:64]
    if not hasattr(source, "read") or not hasattr(source, "seek"):
        return b""
    source.seek(0)
    head = source.read(64)
    return head if isinstance(head, bytes) else b""


def is_still(head: bytes) -> bool:
    """Whether a file is a HEIC or AVIF image of one picture, whose tiles decoders of video take for videos."""
    return head[4:8] == b"ftyp" and head[8:12] in _STILLS and head[8:12] not in _SEQUENCES


def what_it_is(head: bytes) -> str:
    """What an unreadable picture or video is, told by its first 64 bytes, and the cure; "" if that is not known."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head.strip(b"\0 \r\n\t"):
        return "the file is empty; download it again"
    for begin, what, cure in _OTHERS:
        if text.startswith(begin.lower()):
            return f"it is {what}; {cure}"
    if head[4:8] == b"ftyp":
        if head[8:12] in _STILLS:
            return "it is a HEIC or AVIF image; convert it to JPEG or PNG"
        return f"it is a video (MP4 or QuickTime); {_AS_VIDEO}"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return f"it is a video (AVI); {_AS_VIDEO}"
    if head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "the file is damaged at its beginning; download it again"
    return ""


def _ends_as_it_should(data: bytes, format: str) -> bool:
    tail = data.rstrip(b"\0")  # padding to a block size is common and harmless
    if format in ("JPEG", "MPO"):  # MPO is a JPEG with further ones behind it, as phones write them
        return tail.endswith(b"\xff\xd9")
    if format == "PNG":
        return tail.endswith(b"IEND\xaeB`\x82") and tail.count(b"IEND\xaeB`\x82") == 1
    if format == "GIF":
        return tail.endswith(b";")
    if format == "WEBP":
        size = struct.unpack_from("<I", data, 4)[0] + 8
        return not data[size:].strip(b"\0")
    return False
