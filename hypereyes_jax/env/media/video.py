"""Videos as a few frames with their times, sampled as transformers' Qwen3-VL processor samples them. Needs PyAV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hypereyes_jax.env.media.images import ImageError, ImageLimits, to_rgb

_RATE_ERROR = 0.05  # of a stated rate, which rounded times do not reach
_DEPTH = 2  # frames that the model sees as one temporal patch
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
                turn = _turn(frame)
                images[number] = to_rgb(image.rotate(turn, expand=True) if turn % 360 else image)
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
        context = container.streams.video[0].codec_context
        width, height = context.width, context.height
        if _turn(next(iter(_decoded(container)), None)) % 180:
            width, height = height, width
        return len(sample_indices(total, rate, sampling)), (width, height)


def _turn(frame: Any) -> int:
    """Degrees, counterclockwise, by which a frame is turned to be shown."""
    return int(getattr(frame, "rotation", 0) or 0)


def _counted(source: Path | bytes, limits: VideoLimits) -> tuple[int, float]:
    """(frames, frames a second) of a file, by its header; where that does not say how many, by its packets.

    Such a container (WebM, as browsers record) often states a rate that its frames do not have.
    """
    with _opened(source) as container:
        if not container.streams.video:
            raise ImageError("the file holds no video")
        stream = container.streams.video[0]
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


def _opened(source: Path | bytes) -> Any:
    import av

    with _as_image_error():
        options = {"format_whitelist": ",".join(_CONTAINERS)}
        return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), mode="r", options=options)


def _decoded(container: Any) -> Any:
    with _as_image_error():
        yield from container.decode(video=0)


class _as_image_error:
    """PyAV's errors as ImageError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import av

        if isinstance(error, av.FFmpegError | OSError | IndexError):
            raise ImageError(f"not a readable video ({type(error).__name__})") from error
