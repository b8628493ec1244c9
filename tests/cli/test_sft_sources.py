"""`hypereyes sft` on other people's demonstrations: what can't be trained on is left out and named."""

import json
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from hypereyes_jax.cli.main import main

SETTINGS = [
    *f"sft --checkpoint {resources.files('hypereyes_jax.assets') / 'base'}".split(),
    *"--settings.batch 2 --settings.epochs 1 --sizes.shard-rows 1".split(),
]


def talk(image, question="Which flag is it?"):
    return {
        "messages": [
            {"role": "user", "content": f"<image>{question}"},
            {"role": "assistant", "content": "<think>I look.</think>", "tool_calls": [
                {"function": {"name": "web_search", "arguments": json.dumps({"query": "flag"})}}
            ]},
            {"role": "tool", "content": "It is red."},
            {"role": "assistant", "content": "<answer>red</answer>"},
        ],
        "images": [image],
    }  # fmt: skip


@pytest.fixture
def demonstrations(tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    Image.new("RGB", (1000, 3)).save(tmp_path / "strip.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    noise.save(tmp_path / "broken.png")
    data = (tmp_path / "broken.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(data[: len(data) // 2])
    rows = [
        talk("red.png"),
        talk("strip.png"),
        talk("red.png", "word " * 2000),
        talk("gone.png"),
        talk("broken.png"),
        talk("red.png"),
        talk("red.png"),
        talk("red.png"),
    ]
    path = tmp_path / "swift.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_two_steps_on_openai_messages_with_rows_left_out_by_name(demonstrations, tmp_path, capfd):
    assert main([*SETTINGS, "--demonstrations", str(demonstrations), "--out", str(tmp_path / "out")]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "3 rows are left out: 1 x image that does not fit" in said
    assert "line 2: an image can't be used: image of 1000x3 pixels" in said
    assert "line 4: there is no image gone.png below" in said
    assert "left out: " in said.partition("line 5: an image can't be read")[0]  # found only when it was packed
    metrics = (tmp_path / "out" / "metrics.jsonl").read_text()
    assert metrics.count("loss") == 2
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()


def test_a_bad_row_ends_it_only_when_asked(demonstrations, tmp_path, capfd):
    words = ["--demonstrations", str(demonstrations), "--out", str(tmp_path / "out"), "--bad-rows", "refuse"]
    assert main([*SETTINGS, *words]) == 2
    assert "swift.jsonl, line 4: there is no image gone.png" in " ".join(capfd.readouterr().err.split())


def test_an_optimizer_and_data_of_one_s_own_are_kept_and_compared(tmp_path, monkeypatch, capfd):
    own = tmp_path / "own.py"
    turn = {"role": "assistant", "content": "<answer>red</answer>"}
    own.write_text(
        "import optax\n"
        "def plain(rate, config):\n    return optax.sgd(rate)\n"
        "def halves(config):\n    return lambda step: config.learning_rate / 2\n"
        f"rows = [{{'messages': [{{'role': 'user', 'content': 'Which?'}}, {turn}]}}] * 4\n"
    )
    pieces = ["--sizes.learner.optimizer.name", f"{own}:plain", "--sizes.learner.optimizer.schedule", f"{own}:halves"]
    words = [*SETTINGS, "--demonstrations", f"{own}:rows", "--out", str(tmp_path / "out"), *pieces]

    class Begun(Exception):
        pass

    def begin(*_):
        raise Begun

    monkeypatch.setattr("hypereyes_jax.train.sft.make_learner", begin)  # as far as the objects are kept
    with pytest.raises(Begun):
        main(words)
    kept = {each["role"]: each for each in json.loads((tmp_path / "out" / "objects.json").read_text())}
    assert {role: each["name"] for role, each in kept.items()} == {
        "data source": f"{own}:rows", "optimizer": f"{own}:plain", "schedule": f"{own}:halves"
    }  # fmt: skip
    assert {len(each["sha256"]) for each in kept.values()} == {64}
    (tmp_path / "out" / "metrics.jsonl").write_text("{}\n")  # work was done
    own.write_text(own.read_text().replace("/ 2", "/ 3"))
    assert main(words) == 2
    assert "has changed since" in " ".join(capfd.readouterr().err.split())
