import json

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.timeline import read_timeline
from hypereyes_jax.rollout import Timeline


def test_the_engines_own_file_gives_lanes_and_shares(tmp_path):
    timeline = Timeline()
    timeline.span("slot 10", "decode", 103.0, 104.0)
    timeline.span("slot 2", "extend", 100.0, 101.0)
    timeline.span("slot 2", "decode", 101.0, 103.0)
    timeline.span("device", "decode", 101.0, 104.0)
    timeline.span("rollout 0", "search", 90.0, 200.0)  # not of the device: no lane, and not part of the time
    timeline.mark("slot 2", "evicted", 102.0)
    timeline.write(tmp_path / "timeline.json")
    read = read_timeline(tmp_path / "timeline.json")
    assert [lane["name"] for lane in read["lanes"]] == ["device", "slot 2", "slot 10"]
    assert read["seconds"] == pytest.approx(4.0)
    assert read["shares"]["device"] == {"decode": pytest.approx(0.75)}
    assert read["shares"]["slot"] == {"decode": pytest.approx(3 / 8), "extend": pytest.approx(1 / 8)}
    decode = read["kinds"].index("decode")
    assert read["lanes"][1]["spans"][1] == [decode, pytest.approx(1.0), pytest.approx(3.0)]


def test_neighbours_of_a_kind_are_drawn_as_one(tmp_path):
    timeline = Timeline()
    for start in range(10_000):
        timeline.span("slot 0", "decode", 0.01 * start, 0.01 * start + 0.0099)
    timeline.span("slot 0", "parked", 200.0, 300.0)
    timeline.span("slot 0", "decode", 300.0, 301.0)
    timeline.write(tmp_path / "timeline.json")
    read = read_timeline(tmp_path / "timeline.json")
    assert [[read["kinds"][kind], round(end)] for kind, _, end in read["lanes"][0]["spans"]] == [
        ["decode", 100],
        ["parked", 300],
        ["decode", 301],
    ]
    assert read["shares"]["slot"]["decode"] == pytest.approx(100 / 301, rel=1e-3)


def test_utilisation_is_of_the_device_from_its_first_span_to_its_last():
    timeline = Timeline()
    assert set(timeline.utilisation().values()) == {0.0}
    timeline.span("rollout 0", "search", 0.0, 100.0)
    timeline.span("device", "extend", 10.0, 11.0)
    timeline.span("device", "decode", 11.0, 16.0)
    timeline.span("device", "waiting", 16.0, 18.0)
    timeline.span("device", "decode", 19.0, 20.0)
    assert timeline.utilisation() == pytest.approx({"extend": 0.1, "decode": 0.6, "waiting": 0.2, "idle": 0.1})


@pytest.mark.parametrize("content", [[], {"traceEvents": [{"ph": "X"}]}, {"traceEvents": []}])
def test_another_file_is_named(tmp_path, content):
    (tmp_path / "timeline.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"timeline\.json"):
        read_timeline(tmp_path / "timeline.json")
