"""A real PostgreSQL server on loopback, made for the tests and thrown away; they are skipped where there is none.

Debian has it as `apt-get install postgresql`. It does not run as root: started by root it becomes the user postgres.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

USER, PASSWORD = "hypereyes", "not-a-real-password"


def program(name):
    """Where a program of the server is; Debian keeps them off the PATH. None if it is nowhere."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, places)]))


class Server:
    """The server. Its address holds no password: clients find that in PGPASSWORD."""

    def __init__(self, folder):
        self._folder, self._process = folder, None
        self._as = {}
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            self._as = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        (folder / "password").write_text(PASSWORD)
        os.chmod(folder / "password", 0o644)
        self._run(
            "initdb", "-D", folder / "data", "-U", USER, "-A", "scram-sha-256", f"--pwfile={folder / 'password'}",
            "-E", "UTF8", "--locale=C", "--no-sync",
        )  # fmt: skip
        self.start()

    @property
    def url(self):
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    def start(self):
        words = [program("postgres"), "-D", self._folder / "data", "-p", self.port, "-k", self._folder]
        words += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=60"]
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, **self._as)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            answers = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            if subprocess.run(answers, check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise OSError("the server does not answer")

    def stop(self, ending=signal.SIGQUIT):
        """SIGQUIT: at once, in the midst of everything, as after a crash. SIGINT: orderly."""
        if self._process is not None:
            self._process.send_signal(ending)
            self._process.wait(60)
            self._process = None

    def _run(self, name, *words):
        subprocess.run([program(name), *map(str, words)], check=True, capture_output=True, timeout=120, **self._as)


@contextlib.contextmanager
def running():
    """A server for the time of the block. Skips the test where none can be had."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    if any(program(name) is None for name in ("initdb", "postgres", "pg_isready")):
        pytest.skip("there is no PostgreSQL server here: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="hypereyes-postgres-", dir="/tmp"))
    server = None
    try:
        try:
            server = Server(folder)
        except (OSError, KeyError, subprocess.SubprocessError) as error:
            pytest.skip(f"PostgreSQL could not be started here: {error}")
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
