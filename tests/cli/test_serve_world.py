import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from hypereyes_jax.cli import main as cli

MAIN = "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("ending", "ignored"),
    [
        (signal.SIGINT, True),
        (signal.SIGTERM, False),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow),
    ],
)
def test_it_answers_over_a_socket_and_ends_cleanly_by_signal(ending, ignored):
    # A background job of a script is started with SIGINT ignored.
    start = f"import signal; signal.signal({int(ending)}, signal.SIG_IGN); " if ignored else ""
    server = subprocess.Popen(
        [sys.executable, "-c", start + MAIN, "serve-world", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = server.stdout.readline().split(" at ")[1].split()[0]
        body = json.dumps({"queries": ["capital of Norway"], "topk": 1, "return_scores": True}).encode()
        request = urllib.request.Request(f"{url}/retrieve", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            assert "Oslo" in reply.read().decode()
    finally:
        server.send_signal(ending)
        _, trouble = server.communicate(timeout=120)
    assert server.returncode == 0
    assert "Traceback" not in trouble


def test_a_busy_port_has_a_message(capsys):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert cli.main(["serve-world", "--port", str(busy.getsockname()[1])]) == 2
    assert "Choose another port" in capsys.readouterr().err


def test_an_unknown_fault_lists_those_there_are(capsys):
    assert cli.main(["serve-world", "--faults", "gremlins", "0.5"]) == 2
    assert "error_500" in capsys.readouterr().err
