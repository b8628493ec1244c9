import io

import pytest
from rich.console import Console

from hypereyes_jax.runs import progress
from hypereyes_jax.runs.progress import Stages, duration


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_with_the_time_left(clock):
    log = io.StringIO()
    with Stages(Console(file=log, width=200)) as stages, stages.stage("SFT", 100) as stage:
        for _ in range(30):
            clock[0] += 1.0
            stage.advance(loss=0.25)
    lines = log.getvalue().splitlines()
    assert lines[0] == "SFT 10/100, 1 min 30 s left  loss 0.25"
    assert len(lines) == 4  # three in thirty seconds, and the end
    assert lines[-1] == "✓ SFT: 30 in 30 s"


def test_steps_before_a_checkpoint_do_not_make_the_time_left_look_short(clock):
    log = io.StringIO()
    with Stages(Console(file=log, width=200)) as stages, stages.stage("RL", 100) as stage:
        stage.skip_to(80)
        clock[0] += 10.0
        stage.advance(1)
    assert log.getvalue().startswith("RL 81/100, 3 min 10 s left")


def test_a_terminal_gets_a_bar():
    screen = io.StringIO()
    with Stages(Console(file=screen, force_terminal=True, width=120)) as stages, stages.stage("RL", 3) as stage:
        stage.advance(2, accuracy=0.5)
        stages._bars.refresh()
    assert "2/3" in screen.getvalue()
    assert "accuracy 0.5" in screen.getvalue()


def test_a_stage_that_fails_does_not_claim_to_be_done():
    log = io.StringIO()
    with pytest.raises(RuntimeError), Stages(Console(file=log)) as stages, stages.stage("RL", 3):
        raise RuntimeError("stop")
    assert log.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text
