"""Videos as a few frames with their times, sampled as transformers' Qwen3-VL processor samples them. Needs PyAV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hypereyes_jax.env.media.images import ImageError, ImageLimits, is_still, to_rgb, what_it_is

_RATE_ERROR = 0.05  # of a stated rate, which rounded times do not reach
_DEPTH = 2  # frames that the model sees as one temporal patch
_ONE = 1 << 16  # in a display matrix
_TRANSPOSES = {  # (a, b, c, d) of a display matrix, which shows a pixel x, y at a x + c y, b x + d y
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
_SIDEWAYS = tuple(turn for (a, *_), turn in _TRANSPOSES.items() if a == 0)
# Containers that hold their video themselves. Playlists and session descriptions (HLS, DASH, concat, SDP) name other
# files and addresses, which a stranger's file must not have us open.
_CONTAINERS = (
    "3gp", "apng", "asf", "avi", "av1", "flv", "gif", "h264", "hevc", "image2pipe", "ivf", "jpeg_pipe", "m4v",
    "matroska", "mjpeg", "mov", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf", "nut", "obu", "ogg", "png_pipe", "webm",
    "webp_pipe", "wtv", "yuv4mpegpipe",
)  # fmt: skip


@dataclass(frozen=True)
class VideoSampling:
    """Which frames of a video are shown."""

    fps: float = 2.0  # the processor's
    min_frames: int = 4
    max_frames: int = 64  # the processor's 768 would fill a context; each frame is shown as an image


@dataclass(frozen=True)
class VideoLimits:
    """The largest video that is decoded."""

    max_bytes: int = 1 << 30
    max_frames: int = 200_000  # of the whole video, which are decoded up to the last one shown
    image: ImageLimits = field(default_factory=ImageLimits)


@dataclass(frozen=True)
class Frames:
    """Frames of a video in order, as shown, and what the prompt says before each."""

    images: tuple[Image.Image, ...]
    captions: tuple[str, ...]  # "<1.2 seconds>" before the first of two frames, "" before the second


def sample_indices(total: int, rate: float, sampling: VideoSampling = VideoSampling()) -> np.ndarray:
    """Numbers of the frames shown, of `total` at `rate` frames a second: evenly from the first to the last.

    The same as `Qwen3VLVideoProcessor.sample_frames`. Raises ValueError for no frames, or a rate that is not positive.
    """
    if total < 1 or not rate > 0:
        raise ValueError(f"a video of {total} frames at {rate} a second has nothing to sample")
    count = int(total / rate * sampling.fps)
    count = min(max(count, sampling.min_frames), sampling.max_frames, total)
    return np.linspace(0, total - 1, count).round().astype(int)


def pair_seconds(indices: Sequence[int] | np.ndarray, rate: float) -> list[float]:
    """Seconds that the prompt states before each two frames: the mean of their times. A last one counts twice."""
    numbers = [int(index) for index in indices]
    numbers += [numbers[-1]] * (-len(numbers) % _DEPTH)
    return [(numbers[i] + numbers[i + _DEPTH - 1]) / (2 * rate) for i in range(0, len(numbers), _DEPTH)]


def read_video(
    source: Path | bytes, sampling: VideoSampling = VideoSampling(), limits: VideoLimits = VideoLimits()
) -> Frames:
    """The frames of a file that are shown, RGB and turned as its display matrix says.

    Raises ImageError for what is not a video, broken, or beyond the limits; ModuleNotFoundError without PyAV.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > limits.max_bytes:
        raise ImageError(f"the video has {size:,} bytes; at most {limits.max_bytes:,} are allowed")
    total, rate = _counted(source, limits)
    indices = sample_indices(total, rate, sampling)
    numbers, images = set(indices.tolist()), {}
    with _opened(source) as container:
        for number, frame in enumerate(_decoded(container)):
            if number in numbers:
                image = frame.to_image()
                turn = _upright(frame)
                images[number] = to_rgb(image if turn is None else image.transpose(turn))
            if len(images) == len(numbers):
                break
    if len(images) < len(numbers):
        raise ImageError(f"the video is cut short: {len(images)} of {len(numbers)} frames could be read")
    times = pair_seconds(indices, rate)
    captions = [f"<{times[i // _DEPTH]:.1f} seconds>" if i % _DEPTH == 0 else "" for i in range(len(indices))]
    return Frames(tuple(images[int(index)] for index in indices), tuple(captions))


def video_shape(
    source: Path | bytes, sampling: VideoSampling = VideoSampling(), limits: VideoLimits = VideoLimits()
) -> tuple[int, tuple[int, int]]:
    """(frames shown, (width, height) as shown), for which the first frame alone is decoded. Raises ImageError."""
    total, rate = _counted(source, limits)
    with _opened(source) as container:
        context = _stream(container).codec_context
        width, height = context.width, context.height
        if _upright(next(iter(_decoded(container)), None)) in _SIDEWAYS:
            width, height = height, width
        return len(sample_indices(total, rate, sampling)), (width, height)


def _upright(frame: Any) -> Image.Transpose | None:
    """How a frame is turned or mirrored to be shown, by the matrix of its container, as players do. That of another
    angle, or of zeros, is a writer's mistake."""
    from av.sidedata.sidedata import Type

    matrix = None if frame is None else frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return None
    a, b, _, c, d, *_ = (np.frombuffer(bytes(matrix), "<i4") / _ONE).round(2).tolist()
    return _TRANSPOSES.get((a, b, c, d))


def _counted(source: Path | bytes, limits: VideoLimits) -> tuple[int, float]:
    """(frames, frames a second) of a file, by its header; where that does not say how many, by its packets.

    Such a container (WebM, as browsers record) often states a rate that its frames do not have.
    """
    with _opened(source) as container:
        stream = _stream(container)
        head = _head(source)
        if is_still(head):
            raise ImageError(what_it_is(head))
        if (
            head[8:12] == b"WEBP" and head[12:16] == b"VP8X" and int.from_bytes(head[20:21]) & 2
        ):  # its flag of animation
            raise ImageError("it is an animated WebP, which is not decoded here; convert it to GIF or MP4")
        if stream.codec_context is None:
            raise ImageError("the video is in a codec that is not known here")
        width, height = stream.codec_context.width, stream.codec_context.height
        if not 0 < width * height <= limits.image.max_pixels or max(width, height) > limits.image.max_side:
            raise ImageError(f"the video has frames of {width} x {height} pixels, which can't be used")
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        total = stream.frames
        if not total:
            with _as_image_error():
                times = [packet.pts for packet in container.demux(stream) if packet.size]
            total = len(times)
            measured = _mean_rate([time for time in times if time is not None], float(stream.time_base or 0))
            if measured is not None and (not rate or abs(measured / rate - 1) > _RATE_ERROR):
                rate = measured
        if not 0 < total <= limits.max_frames or not rate > 0:
            raise ImageError(f"the video has {total} frames at {rate:g} a second, which can't be used")
        return total, rate


def _mean_rate(times: Sequence[int], unit: float) -> float | None:
    """Frames a second of frames at these times, in units of so many seconds; None where the times do not tell."""
    span = (max(times) - min(times)) * unit if len(times) > 1 else 0
    return (len(times) - 1) / span if span > 0 else None


def _stream(container: Any) -> Any:
    """The video of a file. Its first one may be a cover, or the still that stands for the frames of an animation.

    Raises ImageError for a file without one.
    """
    stream = container.streams.best("video")
    if stream is None:
        raise ImageError("the file holds no video")
    return stream


def _opened(source: Path | bytes) -> Any:
    import av

    with _as_image_error(source):
        options = {"format_whitelist": ",".join(_CONTAINERS)}
        return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), mode="r", options=options)


def _decoded(container: Any) -> Any:
    with _as_image_error():
        yield from container.decode(_stream(container))


class _as_image_error:
    """PyAV's errors as ImageError, which tells what the source is if that is known."""

    def __init__(self, source: Path | bytes | None = None):
        self.source = source

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import av

        if isinstance(error, av.FFmpegError | OSError | IndexError):
            why = type(error).__name__ if self.source is None else _what_it_is(self.source) or type(error).__name__
            raise ImageError(f"not a readable video ({why})") from error


def _what_it_is(source: Path | bytes) -> str:
    """What a file is that can't be opened, and the cure; "" if that is not known."""
    head = _head(source)
    if head[4:8] == b"ftyp" and "HEIC" not in what_it_is(head):
        return "it is cut short or damaged; download it again"  # of most the index stands at the end
    return what_it_is(head)


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:64]
    with source.open("rb") as file:
        return file.read(64)
