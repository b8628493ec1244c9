"""Pictures as rows name them: bytes, base64, paths beside the file, URLs; as shown, and from nowhere else."""

import asyncio
import base64
import contextlib
import json
import threading
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from PIL import Image

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.sources.media import Media, Picture, picture
from hypereyes_jax.errors import UserError

from .conftest import encoded


def row(image, **more):
    return {"question": "q?", "answer": "a", "image": image, **more}


def color(image):
    return image.getpixel((0, 0))


@contextlib.contextmanager
def web_server(body: bytes):
    """Serves one picture at /red.png; yields the URL and the list of requests."""
    asked: list[str] = []
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    ports: list[int] = []

    async def reply(request):
        asked.append(request.path)
        return web.Response(body=body) if request.path == "/red.png" else web.Response(status=404)

    async def serve():
        app = web.Application()
        app.router.add_get("/{name}", reply)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ports.append(site._server.sockets[0].getsockname()[1])
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{ports[0]}", asked
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def test_bytes_base64_data_uris_and_paths_are_told_apart(pictures, lines, red):
    plain = base64.b64encode(red).decode()
    jpeg = base64.b64encode(encoded("red", format="JPEG")).decode()
    assert jpeg.startswith("/9j/")  # which could begin a path
    mime = "\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
    path = lines(
        *(row(value) for value in (plain, jpeg, mime, f"data:image/png;base64,{plain}", "pics/0.png", "./pics/0.png")),
        row(str(pictures / "pics" / "0.png")),
        row([{"path": "pics/0.png"}, {"bytes": None, "path": "pics/2.png"}]),
        row({"url": f"data:image/png;base64,{plain}"}),
        row('["pics/0.png"]'),
    )
    for question in open_questions(path):
        assert all(abs(a - b) < 3 for a, b in zip(color(question.images[0]), (255, 0, 0), strict=True))
    assert len(open_questions(path)[7].images) == 2


@pytest.mark.parametrize("way", ["../secret.png", "pics/../../secret.png", "absolute", "link.png", "links/secret.png"])
def test_a_path_out_of_the_folder_is_refused_unless_allowed(tmp_path, way):
    folder = tmp_path / "set"
    (folder / "pics").mkdir(parents=True)
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded("red"))
    (folder / "link.png").symlink_to(secret)
    (folder / "links").symlink_to(tmp_path)
    import json

    image = str(secret) if way == "absolute" else way
    (folder / "q.jsonl").write_text(json.dumps(row(image)))
    with pytest.raises(UserError, match=r"line 1: the image .* leads out of .*--outside-images"):
        open_questions(folder / "q.jsonl")
    assert color(open_questions(folder / "q.jsonl", outside_images=True)[0].images[0]) == (255, 0, 0)
    assert (
        color(open_questions(folder / "q.jsonl", image_root=tmp_path)[0].images[0]) == (255, 0, 0)
        or way == "../secret.png"
    )


def test_a_url_is_fetched_once_through_the_guard(tmp_path, lines, red):
    with web_server(red) as (url, asked):
        path = lines(row(f"{url}/red.png"), row(f"{url}/gone.png"))
        with pytest.raises(UserError, match=r"line 1: the URL of an image is not fetched: port \d+ is not allowed"):
            open_questions(path)
        with open_questions(path, private_urls=True, cache=tmp_path / "cache") as questions:
            assert not asked  # only when a picture is needed

            async def inside_a_loop():
                return questions[0]

            assert color(asyncio.run(inside_a_loop()).images[0]) == (255, 0, 0)
            assert color(questions[0].images[0]) == (255, 0, 0)
            assert asked == ["/red.png"]
            with pytest.raises(UserError, match=r"line 2: an image could not be fetched: 127.0.0.1 answered HTTP 404"):
                questions[1]
    for bad in ("http://127.0.0.1/x.png", "http://[::1]/x.png", "http://user:word@example.com/x.png"):
        with pytest.raises(UserError, match="the URL of an image is not fetched"):
            open_questions(lines(row(bad)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_pictures_are_turned_as_viewers_show_them(orientation, format):
    """Against what EXIF says of each value: where the corner stored first is to be shown."""
    pixels = np.full((24, 40, 3), 0, np.uint8)
    pixels[:12, :20] = 255  # the stored upper left quarter is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    import io

    buffer = io.BytesIO()
    options = {"quality": 100} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    Image.fromarray(pixels).save(buffer, format, exif=exif, **options)
    media = Media(None)
    given = Picture(buffer.getvalue())
    shown = np.asarray(media.open(given)).astype(int)[..., 0]
    assert media.size(given) == shown.shape[::-1] == ((40, 24) if orientation < 5 else (24, 40))
    height, width = shown.shape
    quarters = {
        "left top": shown[: height // 2, : width // 2],
        "right top": shown[: height // 2, width // 2 :],
        "left bottom": shown[height // 2 :, : width // 2],
        "right bottom": shown[height // 2 :, width // 2 :],
    }
    white = max(quarters, key=lambda name: quarters[name].mean())
    corner = "left top,right top,right bottom,left bottom,left top,right top,right bottom,left bottom".split(",")
    assert white == corner[orientation - 1]


def test_broken_pictures_are_bad_rows_with_their_kind(lines, red):
    path = lines(
        row(base64.b64encode(red[:60]).decode()),
        row("data:image/png;base64,@@@"),
        row(base64.b64encode(b"GIF8" * 99).decode()),
    )
    with open_questions(path) as questions:
        for number in range(3):
            with pytest.raises(UserError, match=f"line {number + 1}: .*an image can't be read"):
                questions[number]
    for value in (3, [True], {"nothing": "here"}):
        with pytest.raises(UserError, match="line 1: an image must be bytes, base64, a data URI, a path or a URL"):
            open_questions(lines(row(value)))


def test_sizes_come_from_headers(pictures, red):
    media = Media(pictures)
    assert media.size(picture("pics/1.png")) == media.size(Picture(red)) == (64, 48)


@pytest.mark.parametrize(
    "written",
    [
        lambda data: "DATA:image/png;base64," + base64.b64encode(data).decode(),
        lambda data: "data:image/png;base64, " + base64.b64encode(data).decode(),
        lambda data: "data:image/png;base64," + base64.urlsafe_b64encode(data).decode(),
        lambda data: "data:image/png;base64," + base64.b64encode(data).decode().rstrip("="),
        lambda data: "data:image/png;name=a.png;base64," + quote(base64.b64encode(data).decode(), safe=""),
        lambda data: "data:image/png," + quote(data, safe=""),
        lambda data: "data:image/png," + base64.b64encode(data).decode(),
    ],
)
def test_base64_is_read_as_others_write_it(lines, written):
    data = encoded("red") + b"\xfb\xff"  # which has - and _ in the alphabet for URLs
    data += b"\0" * (1 - len(data) % 3)
    assert open_questions(lines({"question": "?", "answer": "1", "image": written(data)}))[0].images[0].size == (64, 48)


@pytest.mark.parametrize("begin", ["", "data:image/png;base64,"])
def test_base64_in_a_column_of_bytes_is_read(tmp_path, red, begin):
    images = [f"{begin}{base64.b64encode(red).decode()}".encode(), red]
    table = pa.table({"question": ["q?"] * 2, "answer": ["a"] * 2, "image": pa.array(images, pa.binary())})
    pq.write_table(table, tmp_path / "rows.parquet")
    for question in open_questions(tmp_path / "rows.parquet"):
        assert question.images[0].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("data:image/svg+xml,%3Csvg/%3E", "it is an SVG drawing; draw it as PNG first"),
        ("data:image/svg+xml;utf8,<svg/>", "it is an SVG drawing; draw it as PNG first"),
        ("data:image/png;base64,%40%40", "is not valid base64"),
    ],
)
def test_a_data_uri_that_holds_no_picture_is_told_by_what_it_holds(lines, uri, why):
    questions = open_questions(lines({"question": "?", "answer": "1", "image": uri}))
    with pytest.raises(UserError, match=why):
        questions[0]


def test_file_urls_are_paths_and_other_schemes_are_named(lines, tmp_path):
    (tmp_path / "a b.png").write_bytes(encoded("red"))
    row = {"question": "?", "answer": "1"}
    url = f"file://{tmp_path}/a b.png".replace(" ", "%20")
    assert len(open_questions(lines(row | {"image": url}))[0].images) == 1
    with pytest.raises(UserError, match=r"images are fetched from http:// and https:// only, not from s3://bucket/a"):
        open_questions(lines(row | {"image": "s3://bucket/a.png"}))


@pytest.mark.parametrize(
    "value",
    ["pics\\0.png", ".\\pics\\0.png", "file:{}/pics/0.png", [["pics/0.png"]], ["nan", "pics/0.png"], "['pics/0.png']"],
)
def test_paths_are_found_in_the_forms_that_other_systems_and_tables_write(lines, pictures, value):
    value = value.format(pictures) if isinstance(value, str) else value
    (question,) = open_questions(lines(row(value)))
    assert [color(image) for image in question.images] == [(255, 0, 0)]


def test_a_backslash_of_a_name_is_one(lines, pictures):
    (pictures / "pics\\1.png").write_bytes((pictures / "pics/0.png").read_bytes())
    (question,) = open_questions(lines(row("pics\\1.png")))
    assert color(question.images[0]) == (255, 0, 0)


@pytest.mark.parametrize(
    "value", [float("nan"), "nan", "None", "null", " " * 20, [None], {"bytes": None, "path": None}]
)
def test_what_tables_hold_where_there_is_no_picture_is_none(lines, value):
    assert open_questions(lines(row(value)))[0].images == ()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("C:\\data\\0.png", r"of another machine: write it relative to .*--image-root"),
        ("\\\\host\\share\\0.png", r"of another machine: write it relative to .*--image-root"),
        ("..\\..\\0.png", "outside_images"),
        ("pics/9.png", r"no image pics/9.png below .*; paths are relative to .*--image-root"),
        ([[[0, 0, 0], [255, 0, 0]]], "not numbers: if they are its pixels or bytes, save it as PNG"),
        ([137, 80, 78, 71], "not numbers: if they are its pixels or bytes, save it as PNG"),
        ({"blob": "x"}, "not one of 'blob'"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_cure(lines, pictures, value, why):
    with pytest.raises(UserError, match=why):
        open_questions(lines(row(value)))


@pytest.mark.parametrize("name", ["images.zip", "images/part-1.tar.gz"])
def test_a_picture_that_may_be_in_an_archive_has_the_cure(lines, tmp_path, name):
    path = lines({"question": "?", "answer": "a", "image": "images/1.png"})
    (path.parent / name).parent.mkdir(exist_ok=True)
    (path.parent / name).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"no image images/1.png below .*: unpack {name} there first"):
        open_questions(path)


@pytest.mark.parametrize("reader", [open_questions, open_examples])
def test_a_picture_of_a_rows_file_that_the_row_does_not_name_is_not_left_out(tmp_path, reader):
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<answer>a</answer>"}]
    rows = {"a": {"messages": talk, "image": "a.png"}, "b": {"messages": talk}, "c": {"messages": talk}}
    for name, row in rows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(row))
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded("red"))
    with reader(tmp_path, bad_rows="skip") as items:
        assert len(items) == 2
        assert items.report.bad == {"image not named": 1}
        assert 'b.png lies beside it, and the row names no image: write it into the row, as "image": "b.png"' in str(
            items.report.first_bad["image not named"]
        )


def test_a_path_with_escapes_of_urls_is_found(lines, pictures):
    (pictures / "pics" / "a b%.png").write_bytes(encoded("red"))
    for path in ("pics/a%20b%25.png", "pics/a b%.png", {"src": "pics/a%20b%25.png"}):
        assert color(open_questions(lines(row(path)))[0].images[0]) == (255, 0, 0)
    (pictures.parent / "beside.png").write_bytes(encoded("red"))
    with pytest.raises(UserError, match="leads out of"):
        open_questions(lines(row("..%2Fbeside.png")))
