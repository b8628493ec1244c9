"""Being asked to stop: real signals to real processes, a time limit, a file, an address on loopback."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs import stop as stop_module
from hypereyes_jax.runs.stop import StopConfig, StopRequest

LOOP = """
import sys, time
from hypereyes_jax.runs.stop import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while not stop.reason:
        time.sleep(0.01)
    print(stop.reason, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_and_a_second_one_ends(number):
    heeded = f"import signal; signal.signal({int(number)}, signal.SIG_DFL)\n"  # also where the tests run under nohup
    with subprocess.Popen([sys.executable, "-c", heeded + LOOP], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.name}\n"
        process.send_signal(number)
        assert process.wait(timeout=30) == -number


def test_an_ignored_signal_stays_ignored():
    with subprocess.Popen(["nohup", sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "SIGTERM\n"
        process.kill()


def waited(stop, seconds=20.0):
    end = time.monotonic() + seconds
    while not stop.reason and time.monotonic() < end:
        time.sleep(0.01)
    return stop.reason


def test_the_time_limit_counts_from_the_start_of_the_process():
    with StopRequest(StopConfig(minutes=0.01), started=time.monotonic() - 0.5) as stop:
        began = time.monotonic()
        assert "0.01 minutes" in waited(stop)
        assert time.monotonic() - began < 10


def test_no_limit_is_no_stop(tmp_path):
    with StopRequest(StopConfig(notice_file=tmp_path / "stop", minutes=60)) as stop:
        time.sleep(0.1)
        assert stop.reason == ""


def test_a_file_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(stop_module, "_SECONDS_BETWEEN_LOOKS", 0.02)
    with StopRequest(StopConfig(notice_file=tmp_path / "stop")) as stop:
        time.sleep(0.1)
        assert stop.reason == ""
        (tmp_path / "stop").touch()
        assert str(tmp_path / "stop") in waited(stop)


def test_a_file_that_was_left_from_an_earlier_run_announces_nothing_until_it_is_written_again(
    tmp_path, monkeypatch, capsys
):
    """Otherwise the run would stop at once whenever it is queued again, for ever."""
    monkeypatch.setattr(stop_module, "_SECONDS_BETWEEN_LOOKS", 0.02)
    notice = tmp_path / "stop"
    notice.touch()
    os.utime(notice, (time.time() - 600,) * 2)
    with StopRequest(StopConfig(notice_file=notice)) as stop:
        time.sleep(0.2)
        assert stop.reason == ""
        notice.touch()
        assert str(notice) in waited(stop)
    assert capsys.readouterr().err.count("is 10 minutes older than this process") == 1


def test_a_file_that_was_written_while_the_process_began_asks(tmp_path, monkeypatch):
    monkeypatch.setattr(stop_module, "_SECONDS_BETWEEN_LOOKS", 0.02)
    notice = tmp_path / "stop"
    notice.touch()
    os.utime(notice, (time.time() - 300,) * 2)
    with StopRequest(StopConfig(notice_file=notice), started=time.monotonic() - 320) as stop:
        assert str(notice) in waited(stop)


@pytest.mark.parametrize("notice", ["TRUE", "TERMINATE_ON_HOST_MAINTENANCE"])
def test_a_notice_of_the_cloud_asks(monkeypatch, capsys, notice):
    monkeypatch.setattr(stop_module, "_SECONDS_BETWEEN_LOOKS", 0.02)
    answers = [(200, "NONE"), (200, "FALSE"), (503, "busy"), (200, "<html>Log in</html>"), (200, notice)]

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            code, text = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(code if self.headers["Metadata-Flavor"] == "Google" else 403)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with StopRequest(StopConfig(notice_url=f"http://127.0.0.1:{server.server_port}/")) as stop:
            assert notice in waited(stop)
        server.shutdown()
    assert "status 503" in capsys.readouterr().err  # once, also of what comes after it


def test_a_notice_that_can_not_be_looked_for_hides_no_other_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stop_module, "_SECONDS_BETWEEN_LOOKS", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"this is no HTTP\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        config = StopConfig(
            minutes=0.005, notice_file=tmp_path / ("x" * 300), notice_url=f"http://127.0.0.1:{server.getsockname()[1]}/"
        )
        with StopRequest(config) as stop:
            assert "0.005 minutes" in waited(stop)
    told = capsys.readouterr().err
    assert told.count("--stop.notice-file tells nothing now") == 1
    assert told.count("--stop.notice-url tells nothing now (BadStatusLine") == 1


@pytest.mark.parametrize("url", ["http://[", "http://h:x/", "http://ä ö/"])
def test_an_address_of_notices_that_is_none_is_told(capsys, url):
    with StopRequest(StopConfig(minutes=0.002, notice_url=url)) as stop:
        assert "0.002 minutes" in waited(stop)
    assert "--stop.notice-url tells nothing now" in capsys.readouterr().err


def test_who_asks_to_be_called_is_called_once_also_when_late():
    calls = []
    stop = StopRequest()
    with stop.calling(lambda: calls.append("early")):
        stop.request("first")
        stop.request("second")
    with stop.calling(lambda: calls.append("late")):
        pass
    assert (calls, stop.reason) == (["early", "late"], "first")


def test_who_has_left_is_not_called():
    calls = []
    stop = StopRequest()
    with stop.calling(lambda: calls.append("gone")):
        pass
    stop.request("now")
    assert calls == []


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="minutes"):
        StopConfig(minutes=float("nan"))
    with pytest.raises(UserError, match="notice-url"):
        StopConfig(notice_url="metadata/preempted")
