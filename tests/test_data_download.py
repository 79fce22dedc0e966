"""Downloads against a local server that misbehaves in every way that servers do."""

import hashlib
import http.server
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from image_sets import idx, pixels

from daybreak.core.errors import DataError, StorageError
from daybreak.data import download, open_dataset
from daybreak.data.canonical import PUBLISHED
from daybreak.data.download import RemoteFile, fetch

CONTENT = np.random.default_rng(0).bytes(1_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, CONTENT at /good, and mischief elsewhere; `seen` lists (path, Range header)."""

    seen: list[tuple[str, str | None]]
    files: dict[str, bytes]
    released: threading.Event


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Range")))
        if self.path in self.server.files:
            return self.reply(self.server.files[self.path])
        return getattr(self, self.path.strip("/").replace("-", "_"))()

    def good(self) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            self.reply(CONTENT[start:], 206, {"Content-Range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"})
        else:
            self.reply(CONTENT)

    def cut_once(self) -> None:
        """The first answer breaks off; later ones are good."""
        if self.is_first():
            self.reply(CONTENT[:400_000], length=len(CONTENT))
        else:
            self.good()

    def stalls_once(self) -> None:
        """The first answer goes silent midway and holds the line."""
        if self.is_first():
            self.reply(CONTENT[:400_000], length=len(CONTENT))
            self.server.released.wait(120)
        else:
            self.good()

    def resets_once(self) -> None:
        """The first answer ends in a reset of the connection."""
        if self.is_first():
            self.reply(CONTENT[:400_000], length=len(CONTENT))
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.good()

    def slow_once(self) -> None:
        """The first answer comes at 80 kB/s and breaks off after two seconds."""
        if self.is_first():
            self.reply(b"", length=len(CONTENT))
            for start in range(0, 160_000, 8_000):
                self.wfile.write(CONTENT[start : start + 8_000])
                time.sleep(0.1)
        else:
            self.good()

    def is_first(self) -> bool:
        return len([path for path, _ in self.server.seen if path == self.path]) == 1

    def always_cut(self) -> None:
        self.reply(CONTENT[:10], length=len(CONTENT))

    def no_ranges(self) -> None:
        self.reply(CONTENT)

    def wrong_range(self) -> None:
        self.reply(CONTENT[5:], 206, {"Content-Range": f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"}, len(CONTENT) - 5)

    def wrong_bytes(self) -> None:
        self.reply(bytes(len(CONTENT)))

    def html(self) -> None:
        self.reply(b"<html>please log in</html>", headers={"Content-Type": "text/html; charset=utf-8"})

    def html_without_length(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>please log in</html>")

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(CONTENT)
        except OSError:
            self.server.seen.append(("hung up", None))

    def to_other_scheme(self) -> None:
        self.reply(b"", 302, {"Location": "ftp://example.org/file"})

    def to_good(self) -> None:
        self.reply(b"", 302, {"Location": "/good"})

    def missing(self) -> None:
        self.send_error(404)

    def reply(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    with Server(("127.0.0.1", 0), Handler) as instance:
        instance.seen, instance.files, instance.released = [], {}, threading.Event()
        threading.Thread(target=instance.serve_forever, args=(0.01,), daemon=True).start()
        yield instance
        instance.released.set()
        instance.shutdown()


def remote(server: Server, *paths: str) -> RemoteFile:
    urls = tuple(f"http://127.0.0.1:{server.server_port}/{path}" for path in paths)
    return RemoteFile("set.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), urls)


def get(server: Server, target: Path, *paths: str) -> None:
    fetch(remote(server, *paths), target, schemes=("http",))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def fails(server: Server, target: Path, *paths: str) -> str:
    with pytest.raises(DataError) as caught:
        fetch(remote(server, *paths), target, schemes=("http",))
    assert not target.exists()
    return str(caught.value)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "set.bin"


@pytest.mark.parametrize("path", ["good", "to-good", "no-ranges"])
def test_a_plain_download(server: Server, target: Path, path: str):
    get(server, target, path)


def test_a_cut_download_goes_on_where_it_broke_off(server: Server, target: Path):
    get(server, target, "cut-once")
    assert server.seen == [("/cut-once", None), ("/cut-once", "bytes=400000-")]


@pytest.mark.parametrize(("path", "kept"), [("stalls-once", 400_000), ("resets-once", None), ("slow-once", 160_000)])
def test_a_server_that_fails_midway_is_asked_for_the_rest(
    path: str, kept: int | None, server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
):
    """Slow is not stalled: what comes at 80 kB/s is waited for. A reset may take along what was on its way."""
    monkeypatch.setattr(download, "STALL_SECONDS", 1.0)  # ten times the pauses of a slow server
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.4)  # shorter than the stall, as in earnest
    get(server, target, path)
    (_, first), (_, second) = server.seen
    assert first is None
    assert second is None or second.startswith("bytes=")
    assert kept is None or second == f"bytes={kept}-"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_a_download_and_what_came_is_kept(number: signal.Signals, server: Server, tmp_path: Path):
    """A real process, in a download from a server that has gone silent: 130 or 143 at once, and the next goes on."""
    file, cache = remote(server, "stalls-once"), tmp_path / "cache"
    code = f"""
from functools import partial
from daybreak import cli
from daybreak.data import download, sources
from daybreak.data.canonical import PUBLISHED
from dataclasses import replace
download.STALL_SECONDS = 120.0  # twice what is waited for the end of this process
file = download.RemoteFile("mnist/set.bin", {file.size}, {file.sha256!r}, {file.urls!r})
PUBLISHED["mnist"] = replace(PUBLISHED["mnist"], files=(file,))
sources.fetch = partial(download.fetch, schemes=("http",))
cli.main(["train", "mnist", "--quiet"])
"""
    environment = os.environ | {"DAYBREAK_CACHE_DIR": str(cache), "NO_PROXY": "*"}
    environment.pop("DAYBREAK_DATA_DIR", None)
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path, stderr=subprocess.PIPE)
    part = cache / "mnist" / "set.bin.part"
    deadline = time.monotonic() + 60
    while process.poll() is None and (not part.exists() or part.stat().st_size < 300_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number, said
    assert b"Traceback" not in said
    assert not (tmp_path / "runs").exists()
    fetch(file, cache / "mnist" / "set.bin", ("http",))
    assert [range_ for _, range_ in server.seen] == [None, f"bytes={part_size(server)}-"]


def part_size(server: Server) -> int:
    """From where the last request went on: some whole blocks of what had come."""
    start = int((server.seen[-1][1] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= 400_000
    return start


def test_a_download_goes_on_in_another_process_and_on_another_mirror(server: Server, target: Path):
    message = fails(server, target, "always-cut")
    assert "broke off" in message
    assert len(server.seen) == 3
    target.with_name("set.bin.part").write_bytes(CONTENT[:700_000])
    server.seen.clear()
    get(server, target, "missing", "good")
    assert server.seen == [("/missing", "bytes=700000-"), ("/good", "bytes=700000-")]


def test_a_server_without_ranges_starts_anew(server: Server, target: Path):
    target.parent.mkdir()
    target.with_name("set.bin.part").write_bytes(CONTENT[:1000])
    message = fails(server, target, "wrong-range")
    assert "wrong range" in message
    get(server, target, "no-ranges")


def test_a_complete_part_needs_no_network(target: Path, server: Server):
    target.parent.mkdir()
    target.with_name("set.bin.part").write_bytes(CONTENT)
    get(server, target, "missing")
    assert server.seen == []


@pytest.mark.parametrize("part", [b"x" * 500_000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 1)])
def test_a_rotten_part_is_thrown_away(server: Server, target: Path, part: bytes):
    target.parent.mkdir()
    target.with_name("set.bin.part").write_bytes(part)
    get(server, target, "good")


def test_wrong_content_is_never_kept(server: Server, target: Path):
    message = fails(server, target, "wrong-bytes")
    assert "wrong content" in message
    assert list(target.parent.iterdir()) == []
    get(server, target, "wrong-bytes", "good")


@pytest.mark.parametrize("path", ["html", "html-without-length"])
def test_a_log_in_page_is_not_the_file(server: Server, target: Path, path: str):
    message = fails(server, target, path)
    assert "text/html" in message
    assert list(target.parent.iterdir()) == []


def test_a_body_without_end_is_cut(server: Server, target: Path):
    message = fails(server, target, "endless")
    received = int(message.split("wrong content: ")[1].split()[0])
    assert len(CONTENT) < received <= len(CONTENT) + download.BLOCK_BYTES


def test_a_redirect_may_not_change_the_scheme(server: Server, target: Path):
    assert "refused to follow ftp://example.org/file" in fails(server, target, "to-other-scheme")


def test_by_default_nothing_but_https_is_asked(server: Server, target: Path):
    with pytest.raises(DataError, match=r"refused to follow http://127\.0\.0\.1"):
        fetch(remote(server, "good"), target)
    assert server.seen == []


def test_the_error_says_url_hash_and_place(server: Server, target: Path):
    message = fails(server, target, "missing")
    file = remote(server, "missing")
    for expected in (file.urls[0], "HTTP status 404", file.sha256, str(target)):
        assert expected in message
    assert len(server.seen) == 3


def test_two_at_once_download_once(server: Server, target: Path):
    file = remote(server, "good")
    threads = [threading.Thread(target=fetch, args=(file, target, ("http",))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert len(server.seen) == 1


def test_servers_that_never_answer_cost_the_connect_time_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nine attempts of four seconds would be 36: after eight of them nothing more is waited for. (The clock here counts
    what the code asked to wait for, and no real time passes.)"""
    now = [0.0]

    class Answers(queue.Queue[Any]):
        def get(self, timeout: float) -> Any:  # type: ignore[override]
            now[0] += timeout
            raise queue.Empty

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(download, "queue", SimpleNamespace(Queue=Answers, Empty=queue.Empty))
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(DataError, match="no answer"):
            fetch(RemoteFile("x", 1, "0" * 64, (url, url + "2", url + "3")), tmp_path / "x", ("http",))
    assert download.CONNECT_SECONDS <= now[0] < 10  # the promised ten seconds


def test_a_folder_that_cannot_be_written_is_a_storage_error(server: Server, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="DAYBREAK_CACHE_DIR"):
        fetch(remote(server, "good"), tmp_path / "file" / "set.bin", ("http",))


def test_a_named_set_is_downloaded_once_into_the_cache(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch):
    labels = np.arange(20) % 10
    arrays = [pixels(20, side=28, channels=1)[..., 0], labels, pixels(20, side=28, channels=1)[..., 0], labels]
    server.files = {f"/{i}": idx(array) for i, array in enumerate(arrays)}
    base = f"http://127.0.0.1:{server.server_port}"
    files = tuple(
        replace(file, size=len(data), sha256=hashlib.sha256(data).hexdigest(), urls=(base + path,))
        for file, (path, data) in zip(PUBLISHED["mnist"].files, server.files.items(), strict=True)
    )
    monkeypatch.setitem(PUBLISHED, "mnist", replace(PUBLISHED["mnist"], files=files))
    monkeypatch.setattr("daybreak.data.sources.fetch", partial(fetch, schemes=("http",)))
    first = open_dataset("mnist")
    np.testing.assert_array_equal(first.train.images_NHWC[..., 0], arrays[0])
    assert first.seconds["download"] > 0
    assert (cache / "mnist" / "train-images-idx3-ubyte.gz").read_bytes() == server.files["/0"]
    assert open_dataset("mnist").seconds["download"] == 0.0
    assert [path for path, _ in server.seen] == ["/0", "/1", "/2", "/3"]
