"""Real servers for tests: PostgreSQL and Redis from Debian's packages, on a free port, in a folder of their own."""

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WAIT_SECONDS = 60
_numbers = itertools.count()


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a server without a database of its own: append a name that `database` has made."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    assert found, "needs PostgreSQL (on Debian: apt-get install postgresql)"
    binaries = found[-1].parent
    with _folder() as (folder, user):
        make = [binaries / "initdb", "-D", folder / "data", "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **user)
        port = free_port()
        line = [binaries / "postgres", "-D", folder / "data", "-p", port, "-h", "127.0.0.1", "-k", folder, "-F"]
        with _running(list(map(str, line)), folder, user, port):
            yield f"postgresql://tester@127.0.0.1:{port}/"


def database(server: str) -> str:
    """The URL of a new database on a server."""
    import psycopg2

    name = f"sweep{next(_numbers)}"
    deadline = time.monotonic() + WAIT_SECONDS
    while True:  # the port is open a moment before the server takes anyone
        try:
            connection = psycopg2.connect(f"{server}postgres")
            break
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    connection.close()
    return server + name


@contextmanager
def redis() -> Iterator[str]:
    """The URL of a server; append the number of a database, from 0 to 15."""
    binary = shutil.which("redis-server")
    assert binary, "needs Redis (on Debian: apt-get install redis-server)"
    with _folder() as (folder, user):
        port = free_port()
        line = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        with _running(line, folder, user, port):
            yield f"redis://127.0.0.1:{port}/"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def _folder() -> Iterator[tuple[Path, dict[str, object]]]:
    """A folder, and the user who may write to it: PostgreSQL refuses to run as root. (A test's own folder is closed to
    all but its user.)"""
    folder = Path(tempfile.mkdtemp(prefix="daybreak-server-"))
    user: dict[str, object] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    try:
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(line: list[str], folder: Path, user: dict[str, object], port: int) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(line, stdout=log, stderr=log, cwd=folder, **user)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL would wait for its clients after SIGTERM
        process.wait(WAIT_SECONDS)
