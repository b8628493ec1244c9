"""Readers of benchmarks on small files in each published format, written here."""

import base64
import hashlib
import io
import json
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hypereyes_jax.data.benchmarks import BENCHMARKS, ReadOptions, open_benchmark, read_subset
from hypereyes_jax.data.benchmarks.formats import decrypt
from hypereyes_jax.data.sources import SourceOptions
from hypereyes_jax.env.judging.llm_judge import RULES
from hypereyes_jax.env.judging.published import LetterMatch
from hypereyes_jax.errors import UserError

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(colour=0, size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (colour, 100, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def colour(image):
    return np.asarray(image)[0, 0, 0]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


# MMSearch


@pytest.fixture
def mmsearch(tmp_path):
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("sample_id", "query")),
            ("query_image", PICTURE),
            ("image_search_result", PICTURE),
            *((name, pa.string()) for name in ("area", "subfield", "timestamp", "gt_requery", "gt_answer")),
            ("alternative_gt_answers", pa.list_(pa.string())),
        ]
    )
    shared = {"area": "news", "subfield": "sports", "timestamp": "2024-08", "gt_requery": "who won"}
    rows = [
        {
            "sample_id": "s1",
            "query": "Who won?",
            "query_image": {"bytes": png(7), "path": "a.png"},
            "image_search_result": {"bytes": png(9), "path": None},
            "gt_answer": "Kim",
            "alternative_gt_answers": ["Kim Ye-ji", "Kim"],
            **shared,
        },
        {
            "sample_id": "s2",
            "query": "When was it?",
            "query_image": None,
            "image_search_result": None,
            "gt_answer": "2024-09-29",
            "alternative_gt_answers": [],
            **shared,
        },
    ]
    folder = tmp_path / "MMSearch" / "data"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "end2end.parquet")
    return tmp_path / "MMSearch"


def test_mmsearch_end_to_end(mmsearch):
    read = open_benchmark("mmsearch", mmsearch)
    assert read.ids == ("s1", "s2")
    first, second = read
    assert first.answers == ("Kim", "Kim Ye-ji")
    assert colour(first.images[0]) == 7  # the question's own image, not the aid
    assert len(first.images) == 1
    assert (first.kind, first.meta["subfield"]) == ("news", "sports")
    assert second.images == ()


def test_mmsearch_is_found_in_the_folders_that_the_hub_makes(mmsearch):
    (mmsearch / "end2end" / "end2end").mkdir(parents=True)
    (mmsearch / "data" / "end2end.parquet").rename(mmsearch / "end2end" / "end2end" / "0000.parquet")
    assert open_benchmark("mmsearch", mmsearch).ids == ("s1", "s2")


def test_an_image_without_bytes_and_path_is_none(tmp_path):
    schema = pa.schema([("query", pa.string()), ("gt_answer", pa.string()), ("query_image", PICTURE)])
    rows = [("who", "Kim", {"bytes": png(3), "path": None}), ("when", "now", {"bytes": None, "path": None})]
    table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
    pq.write_table(table, tmp_path / "end2end.parquet")
    assert [len(question.images) for question in open_benchmark("mmsearch", tmp_path)] == [1, 0]


def test_the_visual_subset_of_agent_papers(tmp_path):
    (tmp_path / "local.png").write_bytes(png(3))
    row = {
        "prompt": "Which days does this conference run from and to?",
        "file_path": "local.png",
        "task": "hle/Other",
        "tags": "rag,core,en",
        "lang": "en",
        "source": "HLE",
        "answers": ["2024-09-29 to 2024-10-04"],
        "question_id": 1,
    }
    lines(tmp_path / "mmsearch.jsonl", [row, row | {"question_id": 5}])
    read = open_benchmark("mmsearch", tmp_path)
    assert read.ids == ("1", "5")
    assert colour(read[1].images[0]) == 3
    assert read[0].answers == ("2024-09-29 to 2024-10-04",)


async def test_an_image_by_url(tmp_path, aiohttp_pages):
    url = await aiohttp_pages({"/i.png": png(5)})
    row = {"prompt": "?", "file_path": f"{url}/i.png", "answers": ["x"], "question_id": 1}
    lines(tmp_path / "mmsearch.jsonl", [row])
    with pytest.raises(UserError, match="not fetched"):
        open_benchmark("mmsearch", tmp_path)[0]
    read = open_benchmark("mmsearch", tmp_path, reading=SourceOptions(private_urls=True))
    import asyncio

    question = await asyncio.to_thread(lambda: read[0])
    assert colour(question.images[0]) == 5


@pytest.fixture
async def aiohttp_pages(monkeypatch, tmp_path):
    from aiohttp import web

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runners = []

    async def serve(pages):
        app = web.Application()
        for path, body in pages.items():

            async def page(request, body=body):
                return web.Response(body=body, content_type="image/png")

            app.router.add_get(path, page)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        runners.append(runner)
        return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    yield serve
    for runner in runners:
        await runner.cleanup()


# FVQA


def test_fvqa_in_verls_columns(tmp_path):
    schema = pa.schema(
        [
            ("prompt", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
            ("images", pa.list_(PICTURE)),
            (
                "reward_model",
                pa.struct([(name, pa.string()) for name in ("candidate_answers", "ground_truth", "style")]),
            ),
            ("data_source", pa.string()),
            ("image_urls", pa.null()),
            ("data_id", pa.string()),
        ]
    )
    row = {
        "prompt": [{"role": "user", "content": "What is the name of this tower?"}],
        "images": [{"bytes": png(11), "path": None}],
        "reward_model": {"ground_truth": "Oslo Tower", "candidate_answers": '["The tower", "Tårnet"]', "style": "rule"},
        "data_source": "fvqa",
        "image_urls": None,
        "data_id": "fvqa_test_1470",
    }
    pq.write_table(pa.Table.from_pylist([row], schema), tmp_path / "fvqa_test.parquet")
    (asked,) = open_benchmark("fvqa", tmp_path)
    assert asked.id == "fvqa_test_1470"
    assert asked.text == "What is the name of this tower?"
    assert asked.answers == ("Oslo Tower", "The tower", "Tårnet")
    assert colour(asked.images[0]) == 11


def fvqa_row(**changes):
    reward = {"ground_truth": "Oslo Tower", "candidate_answers": '["The tower"]'}
    row = {"data_id": "fvqa_test_1", "prompt": [{"role": "user", "content": "?"}], "reward_model": reward}
    return row | {"images": [{"bytes": png(11), "path": None}]} | changes


@pytest.mark.parametrize(
    "reward",
    [
        json.dumps({"ground_truth": "Oslo Tower", "candidate_answers": '["The tower", "Tårnet"]'}),
        {"ground_truth": "Oslo Tower", "candidate_answers": "['The tower', 'Tårnet']"},  # as Python writes it
        {"ground_truth": "Oslo Tower", "candidate_answers": "['The tower' 'Tårnet']"},  # as pandas does
        {"ground_truth": "Oslo Tower", "candidate_answers": ["The tower", "Tårnet"]},
    ],
)
def test_fvqas_accepted_answers_are_read_however_a_copy_holds_them(tmp_path, reward):
    pq.write_table(pa.Table.from_pylist([fvqa_row(reward_model=reward)]), tmp_path / "fvqa_test.parquet")
    assert open_benchmark("fvqa", tmp_path)[0].answers == ("Oslo Tower", "The tower", "Tårnet")


@pytest.mark.parametrize(
    "names", [("data/test-00000-of-00002", "data/test-00001-of-00002"), ("test/0000", "test/0001")]
)
def test_fvqa_is_found_in_the_shards_that_the_hub_makes(tmp_path, names):
    for number, name in enumerate((*names, "data/train-00000-of-00001")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        row = fvqa_row(data_id=f"fvqa_{number}")
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{name}.parquet")
    assert open_benchmark("fvqa", tmp_path).ids == ("fvqa_0", "fvqa_1")


def test_what_programs_leave_beside_a_set_is_none_of_it(tmp_path):
    mmsearch_plus(tmp_path / "set")
    data = (tmp_path / "set" / "data-00000-of-00001.arrow").read_bytes()
    for name in ("set/cache-0123456789abcdef.arrow", "__MACOSX/set/._data.arrow", ".cache/data.arrow"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data if "cache" in name else b"Mac OS X")
    assert open_benchmark("mmsearch-plus", tmp_path).ids == ("data-00000-of-00001-1",)


# LiveVQA


@pytest.fixture
def livevqa(tmp_path):
    root = tmp_path / "liveVQA_benchmarks"
    for part, folder, path, name in (
        ("News", "News_imgs", "ap_1.jpg", "0_2025"),
        ("Video", "Video_images", "clip.jpg", "1_1747"),
        ("Paper", "Paper_images", "2505.00049/x2.png", "2505.00049"),
    ):
        asked = {
            "question": f"What is shown ({part})?",
            "options": ["A. a reef", "B. a lake"],
            "Ground_Truth": "B",
            "Ground_Truth_List": ["a lake", "lake"],
            "img_path": path,
        }
        item = {
            "id": name,
            "img_path": path,
            "level1_qa": asked | ({} if part == "Paper" else {"question_type": "object"}),
            "level2_qa": asked | {"question": "When?", "question_type": "time"},
            "source": "AP",
        }
        (root / part / folder / path).parent.mkdir(parents=True)
        (root / part / folder / path).write_bytes(png(len(part)))
        (root / part / "benchmark.json").write_text(json.dumps([item], indent=1))
    (root / "News" / "News_imgs" / "benchmark.json").write_text("[]")  # the stray file
    return root


def test_livevqa_has_both_levels_of_all_three_parts(livevqa):
    read = open_benchmark("livevqa", livevqa)
    assert len(read) == 6
    assert read.ids[:2] == ("0_2025-level1", "0_2025-level2")
    assert [q.kind for q in read] == ["object", "time", "", "time", "object", "time"]
    assert [colour(q.images[0]) for q in read] == [4, 4, 5, 5, 5, 5]
    assert read[0].answers == ("a lake", "lake")
    assert "A. a reef" not in read[0].text


def test_one_part_of_livevqa_is_read_by_its_own_folder(livevqa):
    read = open_benchmark("livevqa", livevqa / "Paper")
    assert read.ids == ("2505.00049-level1", "2505.00049-level2")
    assert colour(read[0].images[0]) == 5


def test_folders_of_livevqa_may_be_written_small(livevqa):
    for part in ("News", "Video", "Paper"):
        (livevqa / part).rename(livevqa / part.lower())
    assert len(open_benchmark("livevqa", livevqa)) == 6


async def test_livevqa_with_its_options_is_scored_by_letter(livevqa):
    asked = open_benchmark("livevqa", livevqa, options=ReadOptions(choices=True))[0]
    assert asked.text.endswith("A. a reef\nB. a lake")
    assert await LetterMatch().judge(asked, "B")
    assert not await LetterMatch().judge(asked, "A")


async def test_livevqas_subset_carries_its_options_in_the_prompt(tmp_path):
    (tmp_path / "i.png").write_bytes(png())
    prompt = "Where is it?\nYou can choose among these Choices:\nA. Augusta National Golf Club\nB. Pebble Beach"
    row = {"prompt": prompt, "file_path": "i.png", "answers": ["Pebble Beach", "Pebble"], "question_id": 1}
    lines(tmp_path / "livevqa.jsonl", [row])
    (asked,) = open_benchmark("livevqa", tmp_path)
    assert asked.meta["letter"] == "B"
    assert await LetterMatch().judge(asked, "B. Pebble Beach")


def one_livevqa(folder, **changes):
    """The first level of an item whose right option is B, a lake."""
    asked = {"question": "?", "options": ["A. a reef", "B. a lake"], "Ground_Truth": "B", "img_path": "ap_1.jpg"}
    asked |= {"Ground_Truth_List": ["a lake", "lake"]} | changes
    asked = {name: value for name, value in asked.items() if value is not ...}
    (folder / "News" / "News_imgs").mkdir(parents=True)
    (folder / "News" / "News_imgs" / "ap_1.jpg").write_bytes(png(4))
    item = {"id": "0", "img_path": "ap_1.jpg", "level1_qa": asked, "source": "AP"}
    (folder / "News" / "benchmark.json").write_text(json.dumps([item]))
    return folder


@pytest.mark.parametrize(
    ("options", "truth"),
    [
        (["A. a reef", "B. a lake"], "B"),
        (["a. a reef", "b. a lake"], "b"),
        (["(A) a reef", "(B) a lake"], "(B)"),
        (["a reef", "a lake"], "B."),
        ({"A": "a reef", "B": "a lake"}, "B"),
        ('["A. a reef", "B. a lake"]', "B"),
    ],
)
async def test_options_of_livevqa_are_read_however_they_are_written(tmp_path, options, truth):
    one_livevqa(tmp_path, options=options, Ground_Truth=truth)
    (openly,) = open_benchmark("livevqa", tmp_path)
    assert (openly.text, openly.answers) == ("?", ("a lake", "lake"))
    (asked,) = open_benchmark("livevqa", tmp_path, options=ReadOptions(choices=True))
    assert asked.text == "?\nChoose one of these options:\nA. a reef\nB. a lake"
    assert asked.answers == ("a lake", "lake", "B")
    for answer, right in (("b", True), ("A", False), ("a lake", True), ("B. a lake", True)):
        assert await LetterMatch().judge(asked, answer) is right


@pytest.mark.parametrize("accepted", [[], ..., None])
def test_without_accepted_texts_the_right_options_text_is_the_answer(tmp_path, accepted):
    one_livevqa(tmp_path, Ground_Truth_List=accepted)
    assert open_benchmark("livevqa", tmp_path)[0].answers == ("a lake",)


@pytest.mark.parametrize("path", ["", None, ...])
def test_a_level_without_a_path_shows_the_image_of_its_item(tmp_path, path):
    one_livevqa(tmp_path, img_path=path)
    assert colour(open_benchmark("livevqa", tmp_path)[0].images[0]) == 4


@pytest.mark.parametrize(
    "choices",
    [
        "A. Augusta\nB. Pebble Beach",
        "(A) Augusta\n(B) Pebble Beach",
        "a) Augusta\r\nb) Pebble Beach",
        "A.Augusta\nB.Pebble Beach",
    ],
)
@pytest.mark.parametrize("answers", [["Pebble Beach"], ["B"], ["B. Pebble Beach"], '["Pebble Beach"]'])
def test_the_right_letter_of_a_subset_is_known_however_options_and_answer_are_written(tmp_path, choices, answers):
    (tmp_path / "i.png").write_bytes(png())
    row = {"prompt": f"Where?\n{choices}", "file_path": "i.png", "answers": answers, "question_id": 1}
    lines(tmp_path / "livevqa.jsonl", [row])
    (asked,) = open_benchmark("livevqa", tmp_path)
    assert asked.meta["letter"] == "B"
    assert asked.meta["options"] == ["A. Augusta", "B. Pebble Beach"]
    assert {"Pebble Beach", "B"} <= set(asked.answers)


# BrowseComp-VL


BCVL = {
    "question": "Which project has an improved interlocking system?",
    "image_path": "browsecomp-vl/images/level1/level1_3.jpg",
    "answers": ["The HIVE Evo"],
    "domain": "Engineering",
}


@pytest.mark.parametrize("inside", ["level1/level1_3.jpg", "images/level1/level1_3.jpg", "./level1/level1_3.jpg"])
def test_browsecomp_vl_from_its_tar_file(tmp_path, inside):
    lines(tmp_path / "bc_vl_level1.jsonl", [BCVL])
    (tmp_path / "images").mkdir()
    with tarfile.open(tmp_path / "images" / "level1.tar", "w") as archive:
        for name, value in (("level1/level1_33.jpg", 1), (inside, 2), ("other/level1_3.jpg", 3)):
            member = tarfile.TarInfo(name)
            member.size = len(png(value))
            archive.addfile(member, io.BytesIO(png(value)))
    (asked,) = open_benchmark("browsecomp-vl", tmp_path)
    assert colour(asked.images[0]) == 2
    assert asked.id == "bc_vl_level1-1"
    assert asked.kind == "Engineering"
    assert not list(tmp_path.rglob("*.jpg"))  # nothing was unpacked


def test_browsecomp_vl_unpacked_and_both_levels(tmp_path):
    root = tmp_path / "any_name"
    for level in (1, 2):
        path = f"browsecomp-vl/images/level{level}/level{level}_3.jpg"
        lines(root / f"bc_vl_level{level}.jsonl", [BCVL | {"image_path": path}])
        (root / "images" / f"level{level}").mkdir(parents=True)
        (root / "images" / f"level{level}" / f"level{level}_3.jpg").write_bytes(png(level))
    read = open_benchmark("browsecomp-vl", root)
    assert [colour(q.images[0]) for q in read] == [1, 2]


@pytest.mark.parametrize(
    "place",
    ["level1/level1_3.jpg", "images/level1/level1/level1_3.jpg", "data/images/level1/level1_3.jpg", "level1_3.jpg"],
)
@pytest.mark.parametrize("path", [BCVL["image_path"], BCVL["image_path"].replace("/", "\\")])
def test_pictures_are_found_in_whatever_folders_they_were_unpacked(tmp_path, place, path):
    lines(tmp_path / "bc_vl_level1.jsonl", [BCVL | {"image_path": path}])
    for name, value in (("other/level1_33.jpg", 1), (place, 2)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(value))
    assert colour(open_benchmark("browsecomp-vl", tmp_path)[0].images[0]) == 2


def test_of_pictures_that_fit_a_path_equally_well_none_is_taken(tmp_path):
    lines(tmp_path / "bc_vl_level1.jsonl", [BCVL])
    for folder in ("a", "b"):
        (tmp_path / folder / "x").mkdir(parents=True)
        (tmp_path / folder / "x" / "level1_3.jpg").write_bytes(png(1))
    with pytest.raises(UserError, match="there is no image"):
        open_benchmark("browsecomp-vl", tmp_path)[0]


def test_a_broken_tar_file_and_a_missing_image_are_told(tmp_path):
    lines(tmp_path / "bc_vl_level1.jsonl", [BCVL])
    with pytest.raises(UserError, match=r"line 1.*there is no image"):
        open_benchmark("browsecomp-vl", tmp_path)[0]
    (tmp_path / "level1.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(UserError, match="not a whole tar file"):
        open_benchmark("browsecomp-vl", tmp_path)[0]


# MMSearch-Plus


def encrypt(text):
    """Base64 of the UTF-8 bytes XOR SHA-256("MMSearch-Plus"), repeated, as its authors publish the cipher."""
    key = hashlib.sha256(b"MMSearch-Plus").digest()
    return base64.b64encode(bytes(byte ^ key[n % 32] for n, byte in enumerate(text.encode()))).decode()


def mmsearch_plus(folder, change=lambda text: encrypt(text), images=2):
    schema = pa.schema(
        [
            ("question", pa.string()),
            ("answer", pa.list_(pa.string())),
            ("num_images", pa.int64()),
            *((name, pa.string()) for name in ("arxiv_id", "video_url", "category", "difficulty", "subtask")),
            *((f"img_{number}", PICTURE) for number in range(1, 6)),
        ]
    )
    row = {
        "question": change("Who is the player – at the left?"),
        "answer": [change("Zoë"), change("Zoe")],
        "num_images": 2,
        "arxiv_id": "",
        "video_url": change("http://x"),
        "category": "Geography",
        "difficulty": "easy",
        "subtask": "s",
        **{f"img_{n}": {"bytes": png(n), "path": None} if n <= images else None for n in range(1, 6)},
    }
    table = pa.Table.from_pylist([row], schema)
    folder.mkdir(exist_ok=True)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table)


def test_mmsearch_plus_is_decrypted_from_its_canary(tmp_path):
    mmsearch_plus(tmp_path / "set")
    (asked,) = open_benchmark("mmsearch-plus", tmp_path)
    assert asked.text == "Who is the player – at the left?"
    assert asked.answers == ("Zoë", "Zoe")
    assert [colour(image) for image in asked.images] == [1, 2]
    assert asked.kind == "Geography"


@pytest.mark.parametrize(
    "answer",
    [
        '["Zoë", "Zoe"]',
        "['Zoë' 'Zoe']",
        encrypt('["Zoë", "Zoe"]'),
        json.dumps([encrypt("Zoë"), encrypt("Zoe")]),
    ],
)
def test_answers_of_mmsearch_plus_may_stand_in_a_text(tmp_path, answer):
    secret = "Zo" not in answer
    row = {"question": encrypt("Who?") if secret else "Who is it?", "answer": answer, "num_images": 1}
    row |= {"img_1": {"bytes": png(1), "path": None}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "x.parquet")
    assert open_benchmark("mmsearch-plus", tmp_path)[0].answers == ("Zoë", "Zoe")


def test_mmsearch_plus_encrypted_by_another_word_is_told(tmp_path):
    cipher = base64.b64encode(bytes(range(120, 180))).decode()
    mmsearch_plus(tmp_path / "set", lambda _: cipher)
    with pytest.raises(UserError, match="its question is encrypted by another word than 'MMSearch-Plus'"):
        open_benchmark("mmsearch-plus", tmp_path)


def test_two_copies_of_a_set_without_ids_are_not_asked_twice(tmp_path):
    for name in ("0a1b", "2c3d"):  # versions in the cache of `datasets`
        mmsearch_plus(tmp_path / name)
    (tmp_path / "2c3d" / "data-00000-of-00001.arrow").rename(tmp_path / "2c3d" / "train.arrow")
    with pytest.raises(UserError, match=r"the same question stands at .*0a1b.*Give one copy of the files"):
        open_benchmark("mmsearch-plus", tmp_path)


def test_shards_of_a_benchmark_that_are_not_all_there_are_told(tmp_path):
    pq.write_table(pa.Table.from_pylist([fvqa_row()]), tmp_path / "test-00000-of-00002.parquet")
    (told,) = open_benchmark("fvqa", tmp_path).report.left_out()
    assert told.startswith("of the 2 files")


def test_the_cipher_by_hand():
    first = hashlib.sha256(b"MMSearch-Plus").digest()[0]
    assert decrypt(base64.b64encode(bytes([ord("A") ^ first])).decode()) == "A"
    assert decrypt(encrypt("é" * 50)) == "é" * 50  # longer than the key
    assert decrypt("What is this?") is None


def test_mmsearch_plus_saved_decrypted_and_with_an_image_missing(tmp_path):
    mmsearch_plus(tmp_path / "a", change=str)
    assert open_benchmark("mmsearch-plus", tmp_path / "a")[0].answers == ("Zoë", "Zoe")
    mmsearch_plus(tmp_path / "b", images=1)
    with pytest.raises(UserError, match="should have 2 images and has 1"):
        open_benchmark("mmsearch-plus", tmp_path / "b")


# IMEB


def test_imeb_by_a_mapping_of_columns(tmp_path):
    (tmp_path / "p.png").write_bytes(png(8))
    lines(
        tmp_path / "imeb.jsonl",
        [{"q": "Who scored?", "pic": "p.png", "gold": "Kim, 40", "num_entities": 5, "d": "Sports"}],
    )
    columns = {"text": "q", "images": "pic", "answers": "gold", "kind": "d"}
    (asked,) = open_benchmark("imeb", tmp_path, options=ReadOptions(columns=columns))
    assert (asked.text, asked.answers, asked.kind) == ("Who scored?", ("Kim, 40",), "Sports")
    assert asked.meta["num_entities"] == 5
    assert colour(asked.images[0]) == 8


# Subsets and errors


def test_a_subset_chooses_and_orders(mmsearch, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("# ours\ns2\n\ns1\n")
    assert open_benchmark("mmsearch", mmsearch, subset=ids).ids == ("s2", "s1")
    ids.write_text('["s2"]')
    assert open_benchmark("mmsearch", mmsearch, subset=ids)[0].text == "When was it?"
    assert open_benchmark("mmsearch", mmsearch)[1:].ids == ("s2",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s1\ns1\n", "twice"),
        ("", "names no id"),
        ("s9\n", "does not have"),
        ("[1.5]", "texts or whole"),
        ("[", "not JSON"),
    ],
)
def test_a_wrong_subset_is_refused(mmsearch, tmp_path, text, message):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        open_benchmark("mmsearch", mmsearch, subset=tmp_path / "ids.txt")


def test_what_is_no_benchmark_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no benchmark 'mmseach'"):
        open_benchmark("mmseach", tmp_path)
    with pytest.raises(UserError, match=r"holds none of .*fvqa_test"):
        open_benchmark("fvqa", tmp_path)
    with pytest.raises(UserError, match="Give the folder"):
        open_benchmark("fvqa", tmp_path / "none")
    lines(tmp_path / "bc_vl_level1.jsonl", [{"question": "x"}])
    with pytest.raises(UserError, match="line 1 is not a question of BrowseComp-VL"):
        open_benchmark("browsecomp-vl", tmp_path)
    lines(tmp_path / "mmsearch.jsonl", [{"prompt": "?", "file_path": "a", "answers": ["x"], "question_id": 1}] * 2)
    with pytest.raises(UserError, match="stands at"):
        open_benchmark("mmsearch", tmp_path)


def test_every_benchmark_is_judged_by_a_rule_that_exists():
    assert all(spec.rule in RULES for spec in BENCHMARKS.values())
    assert [spec.paper_n for spec in BENCHMARKS.values()] == [122, 188, 239, 145, 144, 300]


def test_a_long_subset_is_read_in_time_linear_in_its_length(tmp_path):
    (tmp_path / "ids").write_text("\n".join(map(str, range(50_000))))
    started = time.thread_time()
    assert len(read_subset(tmp_path / "ids")) == 50_000
    assert time.thread_time() - started < 5  # minutes, were each id looked for among all


def test_read_subset_is_public(tmp_path):
    (tmp_path / "ids").write_text("7\n8\n")
    assert read_subset(tmp_path / "ids") == ("7", "8")
    (tmp_path / "ids").write_bytes(b"\xef\xbb\xbf7\r\n8\r\n")  # as Windows saves it
    assert read_subset(tmp_path / "ids") == ("7", "8")


def test_bad_rows_of_a_benchmark_are_refused_or_left_out_and_counted(tmp_path):
    good = {"question": "?", "image_path": "1.png", "answers": ["x"], "domain": "Art"}
    (tmp_path / "1.png").write_bytes(png(3))
    lines(tmp_path / "bc_vl_level1.jsonl", [good, good | {"answers": []}, good | {"question": ""}, good])
    with pytest.raises(UserError, match=r"line 2 is not a question of BrowseComp-VL: it needs 'answers'"):
        open_benchmark("browsecomp-vl", tmp_path)
    read = open_benchmark("browsecomp-vl", tmp_path, reading=SourceOptions(bad_rows="skip"))
    assert read.ids == ("bc_vl_level1-1", "bc_vl_level1-4")
    assert read.report.bad == {"no answer": 1, "no question": 1}
    assert read.report.first_bad["no question"].place.number == 3


def test_a_benchmark_of_bad_rows_alone_names_the_first(tmp_path):
    lines(tmp_path / "bc_vl_level1.jsonl", [{"question": "?", "answers": ["x"]}])
    with pytest.raises(UserError, match=r"no question of BrowseComp-VL: .*line 1: it needs 'image_path'"):
        open_benchmark("browsecomp-vl", tmp_path, reading=SourceOptions(bad_rows="skip"))


def test_pictures_of_a_benchmark_may_lie_in_a_folder_of_their_own(tmp_path):
    row = {"question": "?", "image_path": "1.png", "answers": ["x"], "domain": "Art"}
    lines(tmp_path / "rows" / "bc_vl_level1.jsonl", [row])
    (tmp_path / "1.png").write_bytes(png(3))
    with pytest.raises(UserError, match="there is no image"):
        open_benchmark("browsecomp-vl", tmp_path / "rows")[0]
    read = open_benchmark("browsecomp-vl", tmp_path / "rows", reading=SourceOptions(image_root=tmp_path))
    assert colour(read[0].images[0]) == 3
