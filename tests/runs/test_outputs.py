import os

import pytest

from hypereyes_jax.data.sources import open_questions
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.data_page import write_data_page
from hypereyes_jax.eval.report import write_report
from hypereyes_jax.runs.outputs import check_outputs, check_replaced_directories, refuse_no_trajectories
from tests.eval.sample_run import write_run


def test_an_output_never_replaces_an_input_by_whatever_name(tmp_path):
    picture = tmp_path / "flags.png"
    picture.write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(picture)
    os.link(picture, tmp_path / "hard.png")
    for name in ("flags.png", "link.png", "hard.png", "./flags.png"):
        with pytest.raises(UserError, match=r"would replace the input .*flags\.png"):
            check_outputs([tmp_path / name], [picture])
    check_outputs([tmp_path / "other.png", tmp_path / "new" / "x.png"], [picture])


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file"):
        check_outputs([tmp_path / "file" / "x" / "y.json"])


def test_a_model_directory_is_not_written_over_the_model_that_is_read(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for out in (model, tmp_path):
        with pytest.raises(UserError, match="would replace the input"):
            check_replaced_directories([out], [model])
    check_replaced_directories([tmp_path / "other", model / "inner"], [model])


def test_a_page_replaces_pages_only(tmp_path):
    write_run(tmp_path / "run", questions=1, steps=2)
    metrics, page = tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "mine.html"
    before = metrics.read_bytes()
    for other in (metrics, tmp_path / "run" / "config.json"):
        with pytest.raises(UserError, match=r"would replace the input|not an HTML page, so it is not replaced"):
            write_report(tmp_path / "run", other)
    assert metrics.read_bytes() == before
    for _ in range(2):
        write_report(tmp_path / "run", page)
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Which?", "answer": "Chad"}\n')
    before = questions.read_bytes()
    with open_questions(str(questions)) as source:
        with pytest.raises(UserError, match="not an HTML page, so it is not replaced"):
            write_data_page(source, "questions", questions)
        for _ in range(2):
            write_data_page(source, "questions", page)
    assert questions.read_bytes() == before


def test_trajectories_are_added_to_trajectory_files_only(tmp_path):
    notes, data = tmp_path / "notes.txt", tmp_path / "data.jsonl"
    notes.write_text("milk\nbread, without a newline at its end")
    data.write_text('{"question": "Which?"}\n')
    for path in (notes, data):
        with pytest.raises(UserError, match=rf"{path.name} exists and is not a trajectory file"):
            refuse_no_trajectories(path)
    notes.write_text('{"stage": "ask", "spl')  # of a kill
    refuse_no_trajectories(notes)
    refuse_no_trajectories(tmp_path / "new.jsonl")
    write_run(tmp_path / "run", questions=1, steps=2)
    refuse_no_trajectories(next((tmp_path / "run").glob("trajectories-*.jsonl")))
