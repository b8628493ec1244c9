"""Frames of videos and their times, against transformers' Qwen3-VL processor; files made by PyAV."""

import io
import struct
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hypereyes_jax.env.media.images import ImageError, ImageLimits
from hypereyes_jax.env.media.video import (
    VideoLimits,
    VideoSampling,
    pair_seconds,
    read_video,
    sample_indices,
    video_shape,
)

av = pytest.importorskip("av")


def video(frames=40, rate=8, size=(64, 48), container="mp4"):
    """Frame n has the grey 6 n + 10, so a frame says its number."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
        for number in range(frames):
            image = Image.new("RGB", size, (6 * number + 10,) * 3)
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())
    return out.getvalue()


def numbers(frames):
    return [round((int(np.asarray(image).mean()) - 10) / 6) for image in frames.images]


@pytest.mark.parametrize(("total", "rate"), [(40, 8.0), (3, 30.0), (1, 25.0), (601, 29.97), (100_000, 24.0), (7, 0.5)])
def test_frames_and_times_are_those_of_the_processor(total, rate):
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    theirs = SimpleNamespace(fps=2, min_frames=4, max_frames=768, num_frames=None)
    metadata = SimpleNamespace(total_num_frames=total, fps=rate)
    expected = Qwen3VLVideoProcessor.sample_frames(theirs, metadata)
    found = sample_indices(total, rate, VideoSampling(max_frames=768))
    assert found.tolist() == expected.tolist()
    times = Qwen3VLProcessor._calculate_timestamps(None, expected.tolist(), rate, 2)
    assert pair_seconds(found, rate) == pytest.approx(times, abs=1e-12)


def test_the_frames_shown_are_those_that_were_chosen_with_their_times():
    frames = read_video(video(), VideoSampling(fps=2))
    # 40 frames at 8 a second are 5 s, so 10 frames: 0, 4.33, 8.67, ... 39
    assert numbers(frames) == [0, 4, 9, 13, 17, 22, 26, 30, 35, 39]
    assert frames.captions[:4] == ("<0.2 seconds>", "", "<1.4 seconds>", "")  # means of 0 and 4, of 9 and 13, over 8
    assert {image.size for image in frames.images} == {(64, 48)}
    assert video_shape(video(), VideoSampling(fps=2)) == (10, (64, 48))
    assert numbers(read_video(video(), VideoSampling(max_frames=3))) == [0, 20, 39]


def test_a_container_that_does_not_say_how_many_frames_it_has_is_counted():
    data = video(container="matroska")
    with av.open(io.BytesIO(data)) as file:
        assert not file.streams.video[0].frames
    assert numbers(read_video(data, VideoSampling(max_frames=2))) == [0, 39]


def test_what_is_no_video_or_too_large_is_refused():
    for data in (b"", b"no video", video()[:300]):
        with pytest.raises(ImageError):
            read_video(data)
    with pytest.raises(ImageError, match="40 frames at 8 a second, which can't be used"):
        read_video(video(), limits=VideoLimits(max_frames=39))
    with pytest.raises(ImageError, match="frames of 64 x 48 pixels"):
        read_video(video(), limits=VideoLimits(image=ImageLimits(max_side=63)))
    with pytest.raises(ImageError, match="at most 10 are allowed"):
        read_video(video(), limits=VideoLimits(max_bytes=10))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clip.txt", "ffconcat version 1.0\nfile 'other.mp4'\n"),
        ("clip.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"),
        ("clip.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n"),
    ],
)
def test_a_list_of_other_files_or_addresses_is_no_video(tmp_path, name, text):
    (tmp_path / "other.mp4").write_bytes(video())
    (tmp_path / name).write_text(text)
    for source in (tmp_path / name, text.encode()):
        with pytest.raises(ImageError, match="not a readable video"):
            read_video(source)
        with pytest.raises(ImageError, match="not a readable video"):
            video_shape(source)


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi", "mov", "mpegts", "nut"])
def test_containers_in_use_are_read(container):
    assert numbers(read_video(video(container=container, rate=25), VideoSampling(max_frames=2))) == [0, 39]


def quarters(frames=4):
    """A video whose upper left quarter is red, the upper right one lime, and the lower right one blue."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, 32:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 8_000_000
        for _ in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return bytearray(out.getvalue())


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "colours"),
    [
        ((ONE, 0, 0, ONE), "RG.B"),
        ((0, ONE, -ONE, 0), ".RBG"),  # a quarter turn clockwise
        ((0, -ONE, ONE, 0), "GBR."),
        ((-ONE, 0, 0, -ONE), "B.GR"),
        ((-ONE, 0, 0, ONE), "GRB."),  # mirrored, as some front cameras write
        ((ONE, 0, 0, -ONE), ".BRG"),
        ((0, ONE, ONE, 0), "R.GB"),
        ((0, -ONE, -ONE, 0), "BG.R"),
        ((0, 0, 0, 0), "RG.B"),
        ((46341, 46341, -46341, 46341), "RG.B"),
    ],
)
def test_a_video_is_turned_and_mirrored_as_players_do(matrix, colours):
    data = quarters()
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16  # of version 0: its matrix, behind times, ids, layer and volume
    a, b, c, d = matrix
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    frames = read_video(bytes(data))
    (size,) = {image.size for image in frames.images}
    assert size == ((48, 64) if matrix[0] == 0 and any(matrix) else (64, 48))
    assert video_shape(bytes(data)) == (len(frames.images), size)
    width, height = size
    corners = [(x, y) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    shown = [frames.images[0].getpixel(corner) for corner in corners]
    letters = {(True, False, False): "R", (False, True, False): "G", (False, False, True): "B"}
    assert "".join(letters.get(tuple(value > 128 for value in pixel), ".") for pixel in shown) == colours


def animated(format):
    out = io.BytesIO()
    images = [Image.new("RGB", (64, 48), (6 * number + 10,) * 3) for number in range(8)]
    images[0].save(out, format, save_all=True, append_images=images[1:], duration=100)
    return out.getvalue()


needs_avif = pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="Pillow 11.3 and later write it")


@pytest.mark.parametrize("format", ["GIF", "PNG", pytest.param("AVIF", marks=needs_avif)])
def test_an_animated_picture_is_a_video(format):
    assert len(read_video(animated(format)).images) == 4


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (animated("WEBP"), "it is an animated WebP, which is not decoded here; convert it to GIF or MP4"),
        (bytes(video()[:-200]), "it is cut short or damaged; download it again"),
        (b"<!doctype html><p>login", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"", "the file is empty"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "it is a HEIC or AVIF image"),
    ],
)
def test_what_is_no_video_is_told_by_what_it_is(data, why, tmp_path):
    (tmp_path / "clip").write_bytes(data)
    for source in (data, tmp_path / "clip"):
        with pytest.raises(ImageError, match=why):
            read_video(source)
        with pytest.raises(ImageError, match=why):
            video_shape(source)


@needs_avif
def test_a_still_whose_tiles_are_videos_to_a_decoder_is_none():
    out = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(out, "AVIF")
    with pytest.raises(ImageError, match="it is a HEIC or AVIF image; convert it to JPEG or PNG"):
        read_video(out.getvalue())


def test_a_cover_in_front_of_a_video_is_not_shown():
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        cover, stream = file.add_stream("mjpeg", rate=1), file.add_stream("mpeg4", rate=8)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        file.mux(cover.encode(av.VideoFrame.from_image(Image.new("RGB", (32, 32), "white"))))
        for number in range(16):
            file.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), (6 * number + 10,) * 3))))
        file.mux(stream.encode())
    assert numbers(read_video(out.getvalue())) == [0, 5, 10, 15]
    assert video_shape(out.getvalue()) == (4, (64, 48))


def test_times_of_a_container_without_a_count_are_those_of_its_frames():
    milliseconds = [0, 900, 2100, 2900, 4000, 5100, 5900, 7100, 8000]
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("mpeg4", rate=1000)  # as browsers state it
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(milliseconds):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), (6 * number + 10,) * 3))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    frames = read_video(out.getvalue())
    assert len(frames.images) == 9  # all, since two a second of nine seconds are more
    assert frames.captions[::2] == tuple(f"<{second:.1f} seconds>" for second in (0.5, 2.5, 4.5, 6.5, 8.0))


def test_a_codec_that_is_not_known_is_told(tmp_path):
    data = video(container="matroska")
    assert data.count(b"V_MPEG4/ISO/ASP") == 1
    with pytest.raises(ImageError, match=r"not known here|can't be used"):
        read_video(data.replace(b"V_MPEG4/ISO/ASP", b"V_UNKNOWN/XXXXX"))
