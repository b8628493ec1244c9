"""Videos in questions and demonstrations: their frames are images, after their times, from data to the prompt."""

import pytest

from hypereyes_jax.cli.main import main
from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.files import read_questions, write_questions
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.errors import UserError
from tests.env.media.test_video import video


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(video())
    return "clip.mp4"


def test_a_question_shows_frames_after_their_times(clip, lines, tmp_path):
    path = lines({"question": "<video>What happens?", "answer": "it grows", "video": clip})
    (question,) = open_questions(path)
    assert len(question.images) == 10
    prompt = Episode(question, None).prompt()
    assert prompt[0] == "<0.2 seconds>"
    assert prompt[1:3] == question.images[:2]
    assert prompt[3] == "<1.4 seconds>"
    assert prompt[-1] == "What happens?"
    write_questions(tmp_path / "again.jsonl", [question])
    (again,) = read_questions(tmp_path / "again.jsonl")
    assert (again.captions, len(again.images)) == (question.captions, 10)
    assert main(["data", "convert", str(path), str(tmp_path / "out")]) == 0
    assert open_questions(tmp_path / "out")[0].captions == question.captions


def test_conversations_show_videos_at_their_tags(clip, lines, pictures, capsys):
    messages = [
        {"role": "user", "content": "<image>and <video>what?"},
        {"role": "assistant", "content": "<answer>it grows</answer>"},
    ]
    parts = [{"type": "video", "video": clip}, {"type": "text", "text": "what?"}]
    path = lines(
        {"messages": messages, "images": ["pics/0.png"], "videos": [clip]},
        {"messages": [{"role": "user", "content": parts}, messages[1]]},
    )
    first, second = open_examples(path)
    shown = [part if isinstance(part, str) else "FRAME" for part in first.observations[0]]
    assert shown[:6] == ["FRAME", "and ", "<0.2 seconds>", "FRAME", "FRAME", "<1.4 seconds>"]
    assert (shown[-1], shown.count("FRAME")) == ("what?", 11)
    assert sum(not isinstance(part, str) for part in second.observations[0]) == 10
    assert main(["data", "check", str(path)]) == 0
    assert "What is wrong: nothing" in capsys.readouterr().out
    with pytest.raises(UserError, match="2 <video> tags and 1 videos"):
        open_examples(
            lines({"messages": [{"role": "user", "content": "<video><video>"}, messages[1]], "videos": [clip]})
        )


def test_broken_videos_are_bad_rows(lines, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    questions = open_questions(lines({"question": "What?", "answer": "a", "video": "clip.mp4"}))
    with pytest.raises(UserError, match="line 1: a video can't be read"):
        questions[0]
    with pytest.raises(UserError, match=r"line 1: there is no image gone.mp4"):
        open_questions(lines({"question": "What?", "answer": "a", "video": "gone.mp4"}))
