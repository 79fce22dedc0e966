"""The local page: what it answers is what `predict` and `explain` say, and no request harms it or leaves the run."""

import asyncio
import base64
import contextlib
import errno
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser
from serving import Served, serving

from daybreak import cli
from daybreak.core.errors import UsageError
from daybreak.data import open_dataset
from daybreak.data.picture import to_picture
from daybreak.evaluation.predict import predict
from daybreak.explain.gallery import maps_for
from daybreak.explain.maps import MapOptions, explain
from daybreak.explain.overlay import overlay
from daybreak.export.write import export
from daybreak.models.registry import stages_of
from daybreak.report.report import write_report
from daybreak.runs.directory import RunDirectory
from daybreak.serve import app, guard, of_run, server, uploads, watch
from daybreak.serve.batching import Batches
from daybreak.serve.files import files_of_run
from daybreak.serve.guard import POLICY
from daybreak.serve.of_run import ServedRun
from daybreak.serve.options import HOST, ServeOptions, new_token


@pytest.fixture(scope="module")
def run(digits_run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = RunDirectory.open(shutil.copytree(digits_run.path, tmp_path_factory.mktemp("runs") / "run"))
    write_report(run)
    return run


@pytest.fixture(scope="module")
def served(run: RunDirectory) -> Iterator[Served]:
    with serving(run) as served:
        yield served


@pytest.fixture(scope="module")
def image() -> bytes:
    buffer = io.BytesIO()
    to_picture(np.asarray(open_dataset("digits").test.images_NHWC[3])).resize((40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def picture_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_it_answers_as_predict_and_explain_do(served: Served, image: bytes, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(image)
    status, found = served.explained(image)
    assert status == 200
    assert served.json("/predict", image) == (200, {key: found[key] for key in ("top", "energy")})  # maps only if asked
    (expected,) = predict(served.run, [tmp_path / "image.png"], top=5, device="cpu")
    assert [row["class"] for row in found["top"]] == [row["class"] for row in expected["top"]]
    assert [row["probability"] for row in found["top"]] == [row["probability"] for row in expected["top"]]
    classifier = served.run.classifier("cpu")
    seen_HWC = picture_of(found["image"])[..., None]
    maps = maps_for(classifier, seen_HWC[None], MapOptions(), ["predicted"])
    assert [row["layer"] for row in found["maps"]] == list(stages_of(classifier.net))
    for row, m in zip(found["maps"], maps, strict=True):
        assert row["class"] == expected["top"][0]["class"]
        if not m.is_single_cell:
            np.testing.assert_array_equal(picture_of(row["picture"]), overlay(seen_HWC, m.values_HW, of_run.MAP_SIZE))


def test_the_class_that_is_asked_for_is_explained(served: Served, image: bytes) -> None:
    _, found = served.explained(image, "class=7&against=2")
    classifier = served.run.classifier("cpu")
    seen_HWC = picture_of(found["image"])[..., None]
    maps = explain(classifier, seen_HWC[None], np.array([[7]]), MapOptions(), np.array([2]))
    assert {row["class"] for row in found["maps"]} == {"7"}
    np.testing.assert_array_equal(
        picture_of(found["maps"][0]["picture"]), overlay(seen_HWC, maps[0].values_HW, of_run.MAP_SIZE)
    )
    for query, what in (("class=cat", "class cat"), ("against=true", "class true")):
        status, found = served.json(f"/predict?{query}", image)
        assert (status, found["error"]["what"]) == (400, what)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<svg onload=alert(1)>", bytes(range(256)) * 9])
def test_what_is_no_image_is_refused(served: Served, content: bytes) -> None:
    status, found = served.json("/predict", content)
    assert (status, found["error"]["code"]) == (400, "data")
    assert found["message"].startswith("image: ")
    assert "; try: " in found["message"]


def status_of(connection: socket.socket) -> int:
    with connection:
        return int(connection.makefile("rb").readline().split()[1])


def too_long(served: Served) -> int:
    """It says so, and sends nothing."""
    return status_of(served.begin(f"Content-Length: {uploads.MAX_BYTES + 1}"))


def too_long_without_saying_so(served: Served) -> int:
    connection = served.begin("Transfer-Encoding: chunked")
    size = uploads.MAX_BYTES // 8
    try:
        for _ in range(9):
            connection.sendall(f"{size:x}\r\n".encode() + bytes(size) + b"\r\n")
    except (BrokenPipeError, ConnectionResetError):  # the answer came before the end
        pass
    return status_of(connection)


def too_slow(served: Served) -> int:
    return status_of(served.begin("Content-Length: 1000", body=b"\x89PNG"))


def gone(served: Served) -> None:
    served.begin("Content-Length: 1000", body=b"\x89PNG").close()


@pytest.mark.slow
def test_bad_uploads_keep_nobody_waiting(
    served: Served,
    image: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    """Twenty at once: it answers while they come, afterwards as before, and keeps none of them. (The limits are smaller
    here.)"""
    monkeypatch.setattr(uploads, "MAX_BYTES", 2**20)
    monkeypatch.setattr(uploads, "MAX_SECONDS", 5.0)
    before = served.json("/predict", image)
    asked = [(too_slow, 408), (too_long, 413), (too_long_without_saying_so, 413), (gone, None)] * 5
    with ThreadPoolExecutor(len(asked)) as pool:
        found = [pool.submit(ask, served) for ask, _ in asked]
        meanwhile = served.json("/predict", image)
        assert not any(future.done() for future, (ask, _) in zip(found, asked, strict=True) if ask is too_slow)
        assert [future.result() for future in found] == [status for _, status in asked]
    assert before == meanwhile == served.json("/predict", image)
    assert before[0] == 200
    assert served.server is not None
    state = served.server.server_state
    wait_for(lambda: not state.connections)
    assert not caplog.records
    record_property("trials", len(asked))


class Busy:
    """A net that works only when it is told to, and what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go_on, self.batches = threading.Event(), list[int]()
        classify = ServedRun.classify

        def slow(subject: ServedRun, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.batches.append(len(images_NHWC))
            self.may_go_on.wait(60)
            return classify(subject, images_NHWC)

        monkeypatch.setattr(ServedRun, "classify", slow)


def pictures(count: int) -> list[bytes]:
    found = []
    for image_HWC in open_dataset("digits").test.images_NHWC[:count]:
        buffer = io.BytesIO()
        to_picture(np.asarray(image_HWC)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def answer_of(connection: socket.socket) -> tuple[int, Any]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    with connection:
        return answer.status, json.loads(answer.read())


def test_those_who_ask_at_the_same_time_share_a_forward(
    served: Served, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets the answer to its own image."""
    asked = pictures(40)
    alone = [served.json("/predict", one)[1] for one in asked]
    busy = Busy(monkeypatch)
    first = begin_question(served, "", image)
    wait_for(lambda: busy.batches)
    waiting = [begin_question(served, "", one) for one in asked]
    time.sleep(1)
    busy.may_go_on.set()
    assert answer_of(first)[0] == 200
    for connection, expected in zip(waiting, alone, strict=True):
        status, found = answer_of(connection)
        assert status == 200
        assert found["energy"] == pytest.approx(expected["energy"], abs=1e-4)
        assert found["top"][0]["class"] == expected["top"][0]["class"]
        assert found["top"][0]["probability"] == pytest.approx(expected["top"][0]["probability"], abs=1e-5)
    assert busy.batches == [1, 40]
    assert 'daybreak_batch_images_bucket{le="64.0"}' in served.ask("/metrics")[1].decode()


def test_what_nobody_waits_for_is_not_done(served: Served, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the net is busy, those who leave are passed over."""
    busy = Busy(monkeypatch)
    waiting = []
    for _ in range(9):
        waiting.append(begin_question(served, "", image))
        wait_for(lambda: busy.batches)  # the first has the net
    time.sleep(0.5)
    for connection in waiting[1:-1]:
        connection.close()
    time.sleep(0.5)
    busy.may_go_on.set()
    assert [status_of(connection) for connection in (waiting[0], waiting[-1])] == [200, 200]
    assert busy.batches == [1, 1]


def test_so_many_may_wait_for_maps(served: Served, image: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who leave are passed over, and the ninth of eight is told."""
    monkeypatch.setattr(app, "MAX_EXPLAINING", 8)
    may_go_on, drawn = threading.Event(), []

    def explain(_self: Any, _image: Any, _predicted: int, target: str | None, _against: str | None) -> dict[str, Any]:
        drawn.append(target)
        may_go_on.wait(60)
        return {}

    monkeypatch.setattr(ServedRun, "explain", explain)
    waiting = []
    for number in range(app.MAX_EXPLAINING):
        waiting.append(begin_question(served, f"class={number}", image))
        wait_for(lambda: drawn)
        time.sleep(0.2)
    assert status_of(begin_question(served, "class=8", image)) == 503
    for connection in waiting[1:-1]:
        connection.close()
    time.sleep(0.5)
    may_go_on.set()
    assert [status_of(connection) for connection in (waiting[0], waiting[-1])] == [200, 200]
    assert drawn == ["0", str(app.MAX_EXPLAINING - 1)]


def test_images_of_other_sizes_and_failures_are_kept_apart() -> None:
    """A batch holds images of one size; what fails is told to those who were in it, and the next ones are answered."""
    seen: list[tuple[int, ...]] = []

    def classify(images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(images_NHWC.shape)
        if images_NHWC.shape[1] == 3:
            raise ValueError("three")
        return images_NHWC.reshape(len(images_NHWC), -1)[:, :1], images_NHWC.sum((1, 2, 3))

    async def here() -> bool:
        return False

    async def ask_all() -> list[Any]:
        with ThreadPoolExecutor(1) as net:
            batches = Batches(classify, 2, net)
            images = [np.full((side, side, 1), n) for n, side in enumerate((2, 2, 2, 3, 3, 4))]
            return await asyncio.gather(*(batches.ask(image, here) for image in images), return_exceptions=True)

    found = asyncio.run(ask_all())
    assert [one[1] if isinstance(one, tuple) else str(one) for one in found] == [0, 4, 8, "three", "three", 80]
    assert seen == [(2, 2, 2, 1), (1, 2, 2, 1), (2, 3, 3, 1), (1, 4, 4, 1)]


def test_of_uploads_that_fill_the_room_the_slowest_goes(
    served: Served, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "ALL_BYTES", 300_000)
    slow = [served.begin("Content-Length: 1000000", body=bytes(100_000)) for _ in range(2)]
    time.sleep(0.5)
    padded = image + bytes(150_000)
    assert served.json("/predict", padded)[0] == 200
    assert status_of(slow[0]) == 503
    slow[1].settimeout(0.3)
    with pytest.raises(TimeoutError):
        slow[1].recv(1)
    slow[1].close()


def test_an_upload_that_finds_no_room_on_the_disk_is_told(
    served: Served, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(tempfile.SpooledTemporaryFile[bytes]):
        def rollover(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(uploads.tempfile, "SpooledTemporaryFile", Full)
    status, found = served.json("/predict", image + bytes(2 * uploads.IN_MEMORY))
    assert (status, "No space left" in found["message"]) == (503, True)
    assert served.json("/predict", image)[0] == 200


def begin_question(served: Served, query: str, body: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=60)
    head = f"POST /predict?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("never happened")


OUTSIDE = [
    "../run/config.json", "%2e%2e/run/config.json", "..%2frun%2fconfig.json", "figures/%2e%2e/%2e%2e/run/config.json",
    "/etc/passwd", "%2fetc%2fpasswd", "config.json%00.png", "%00", "..%5crun%5cconfig.json", "file:///etc/passwd",
    "http://127.0.0.1:{port}/image.png", "http%3A%2F%2F127.0.0.1:{port}%2Fimage.png", "",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leads_out_of_the_run_or_to_the_network(served: Served, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        status, found = served.ask("/run/" + name.format(port=elsewhere.getsockname()[1]))
        assert (status, json.loads(found)["error"]["code"]) == (400, "request")
        elsewhere.settimeout(0.05)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_files_of_the_run_are_shown_and_links_out_of_it_are_not(served: Served, tmp_path: Path) -> None:
    assert served.ask("/run/report.html") == (200, (served.run.path / "report.html").read_bytes())
    assert served.ask("/run/figures/curves.svg")[0] == 200
    assert served.ask("/run/missing.png")[0] == 404
    assert served.ask("/run/figures")[0] == 404
    assert served.ask("/run/" + 300 * "a")[0] == 404
    (tmp_path / "secret").write_text("secret")
    link = served.run.path / "figures" / "link.txt"
    link.symlink_to(tmp_path / "secret")
    status, found = served.ask("/run/figures/link.txt")
    link.unlink()
    assert (status, b"secret" in found) == (403, False)


def test_only_what_can_be_had_is_listed(tmp_path: Path) -> None:
    for name in (
        "report.html",
        "a.txt",
        "figures/b.svg",
        "model.safetensors",
        ".x.svg.123.tmp",
        "odd:name",
        "checkpoints/c",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "out").symlink_to("/etc/hostname")
    assert files_of_run(tmp_path) == ["report.html", "a.txt", "figures/b.svg"]


def test_nothing_is_kept_by_the_browser_and_what_a_run_brings_runs_apart(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    for path, policy in (("/", None), ("/run/report.html", "sandbox allow-scripts")):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        found = answer.headers["cache-control"], answer.headers["content-security-policy"]
        assert found == ("no-store", policy)
    connection.close()


def test_classes_whose_names_are_no_text(run: RunDirectory, image: bytes, tmp_path: Path) -> None:
    """As folders may have: they go out as one line, and come back as such."""
    shutil.copytree(run.path, tmp_path / "run")
    card = tmp_path / "run" / "model.json"
    facts = json.loads(card.read_text())
    odd = ["caf\udce9", "a\nb", *facts["classes"][2:]]
    card.write_text(json.dumps(facts | {"classes": odd}))
    with serving(RunDirectory.open(tmp_path / "run")) as served:
        assert "caf\\xe9" in served.ask("/")[1].decode()
        status, found = served.explained(image, "class=a%5Cnb")
        assert (status, {m["class"] for m in found["maps"]}) == (200, {"a\\nb"})
        assert "caf\\xe9" in {row["class"] for _, row in enumerate(served.json("/examples")[1]["examples"])}


def test_another_site_may_not_ask(served: Served, image: bytes) -> None:
    for site, expected in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        assert served.ask("/predict", image, **{"Sec-Fetch-Site": site})[0] == expected


def test_another_origin_may_not_ask_even_if_the_browser_says_no_more(served: Served, image: bytes) -> None:
    own = f"http://127.0.0.1:{served.port}"
    for origin, expected in (
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        (f"{own}0", 403),
        (own, 200),
    ):
        assert served.ask("/predict", image, Origin=origin)[0] == expected


def test_files_of_the_run_are_closed_to_other_sites(served: Served) -> None:
    for path, headers, expected in (
        ("/run/report.html", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ("/run/report.html", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("/run/report.html", {}, 200),
        ("/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),  # a link to the page
        ("/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ):
        assert served.ask(path, **headers)[0] == expected, (path, headers)


@pytest.mark.parametrize(
    "path", ["/", "/run/report.html", "/run/none", "/predict", "/examples", "/healthz", "/metrics"]
)
def test_every_answer_has_the_same_policy(served: Served, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert {name: answer.getheader(name) for name in POLICY} == POLICY


def half_a_request(served: Served) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: 127")
    return connection


def no_request(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=30)


def half_a_second_request(served: Served) -> socket.socket:
    """On a connection that has had an answer."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    connection.sendall(f"GET /run/none HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
    assert connection.recv(10**6).startswith(b"HTTP/1.1 404")
    connection.sendall(b"GET / HTTP/1.1\r\nHo")
    return connection


@pytest.mark.parametrize("begin", [no_request, half_a_request, half_a_second_request])
def test_connections_without_a_request_keep_nobody_waiting(
    begin: Callable[[Served], socket.socket], served: Served, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "HEADER_SECONDS", 2.0)
    idle = [begin(served) for _ in range(40)]
    assert served.json("/predict", image)[0] == 200
    for connection in idle:  # all are closed soon
        connection.settimeout(20)
        while connection.recv(10**6):
            pass
        connection.close()
    assert served.server is not None
    wait_for(lambda: not served.server.server_state.connections)  # type: ignore[union-attr]


def test_of_too_many_connections_the_oldest_that_asks_nothing_goes(
    served: Served, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_CONNECTIONS", 10)
    idle = [no_request(served) for _ in range(14)]
    assert served.json("/predict", image)[0] == 200
    idle[0].settimeout(1.0)
    assert idle[0].recv(1) == b""
    idle[-1].settimeout(0.2)
    with pytest.raises(TimeoutError):
        idle[-1].recv(1)
    for connection in idle:
        connection.close()


def test_who_asked_before_and_is_quiet_makes_room(
    served: Served, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that were answered and are kept alive hold nobody's place."""
    monkeypatch.setattr(guard, "MAX_CONNECTIONS", 10)
    kept = []
    for _ in range(11):
        connection = no_request(served)
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
        assert connection.recv(10**5).startswith(b"HTTP/1.1 200")
        kept.append(connection)
    assert served.json("/predict", image)[0] == 200
    kept[0].settimeout(1.0)
    while kept[0].recv(10**5):  # until it is closed
        pass
    for connection in kept:
        connection.close()


def test_an_answer_that_nobody_reads_holds_no_place_for_long(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "READ_SECONDS", 1.0)
    with serving(run) as served:
        assert served.server
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", served.port))
        asked = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
        deaf.settimeout(0.5)
        with contextlib.suppress(TimeoutError, ConnectionError):  # until both sides' buffers are full
            deaf.sendall(2000 * asked)
        wait_for(lambda: not served.server.server_state.connections)  # type: ignore[union-attr]
        wait_for(lambda: "daybreak_requests_under_way 1.0" in served.ask("/metrics")[1].decode())  # this one
        deaf.close()


def test_more_requests_than_can_be_worked_on_are_told(
    served: Served, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_REQUESTS", 0)
    status, found = served.json("/predict", image)
    assert (status, "being answered" in found["message"]) == (503, True)
    assert served.ask("/healthz")[0] == 200  # it lives


def test_a_notebook_is_told_to_use_a_terminal(run: RunDirectory) -> None:
    async def in_a_loop() -> None:
        server.serve(ServedRun(run, "cpu"), ServeOptions(0))

    with pytest.raises(UsageError, match="in a terminal"):
        asyncio.run(in_a_loop())


def test_a_name_of_another_site_is_not_answered(served: Served) -> None:
    assert served.ask("/", Host="evil.example")[0] == 400
    assert served.ask("/", Host=f"localhost:{served.port}")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_and_a_signal_ends_it(run: RunDirectory, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "daybreak", "serve", str(run.path), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        port = int(facts["url"].rsplit(":", 1)[1].strip("/"))
        status, page = Served(run, port).ask("/")
        assert (status, b"small on digits" in page) == (200, True)
        held = Served(run, port).begin("Content-Length: 1000", body=b"\x89PNG")  # does not keep it
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)
        held.close()
    finally:
        process.kill()
    assert (process.returncode, "Traceback" in complaints) == (128 + number, False)


def test_a_port_in_use_is_named(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with server.listen(HOST, 0) as taken:
        port = taken.getsockname()[1]
        assert cli._run(["serve", str(run.path), "--port", str(port)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --port {port}: ")


HAND_OVER = """([bytes, event, name]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  document.getElementById("drop").dispatchEvent(event === "drop"
    ? new DragEvent(event, { ...options, dataTransfer: data })
    : new ClipboardEvent(event, { ...options, clipboardData: data }));
}"""


def test_a_person_drops_an_image(served: Served, browser: Browser, image: bytes, tmp_path: Path) -> None:
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"http://127.0.0.1:{served.port}/")
    page.set_input_files("#file", {"name": "seven.png", "mimeType": "image/png", "buffer": image})
    page.wait_for_selector("#maps li")
    _, expected = served.json("/predict", image)
    assert page.locator("#status").inner_text().startswith(f"seven.png: {expected['top'][0]['class']}, ")
    assert page.locator("#said").inner_text() == expected["top"][0]["class"]
    assert page.locator("#top tbody tr").count() == len(expected["top"])
    assert page.locator("#maps figcaption").all_inner_texts()[0].startswith(f"prep, for {expected['top'][0]['class']}")
    page.select_option("#class", "8")
    page.locator("#maps figcaption", has_text="prep, for 8").wait_for()
    assert not Axe().run(page).response["violations"]
    page.screenshot(path=tmp_path / "serve.png", full_page=True)
    assert complaints == []
    page.set_input_files("#file", {"name": "no.png", "mimeType": "image/png", "buffer": b"no image"})
    page.wait_for_selector("#status.wrong")
    assert "not an image" in page.locator("#status").inner_text()
    assert page.locator("#result").is_hidden()
    for event in ("drop", "paste"):
        page.evaluate(HAND_OVER, [list(image), event, f"{event}.png"])
        page.locator("#status", has_text=f"{event}.png: ").wait_for()
        assert page.locator("#result").is_visible()
    page.click("text=Read the report")
    page.wait_for_selector("#gallery li")
    context.close()


@pytest.fixture(scope="module")
def picky(run: RunDirectory) -> Iterator[Served]:
    """Served so that no image is known."""
    with serving(run, reject=1.0) as served:
        yield served


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_for_several_images(picky: Served, browser: Browser, theme: Any, width: int) -> None:
    """Chosen together, from the examples and from the camera; the answers so far can be looked at again."""
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"http://127.0.0.1:{picky.port}/")
    _, examples = picky.json("/examples")
    page.locator("#examples button").first.wait_for()
    assert page.locator("#examples img").first.get_attribute("alt") == f"Example: {examples['examples'][0]['class']}"
    asked = pictures(3)
    name = "a-very-long-name-of-a-file-that-a-telephone-may-give-it-20261126.png"
    files = [
        {"name": n, "mimeType": "image/png", "buffer": b} for n, b in zip((name, "2.png", "3.png"), asked, strict=True)
    ]
    page.set_input_files("#file", [*files, {"name": "no.png", "mimeType": "image/png", "buffer": b"none"}])  # type: ignore[list-item]
    page.locator("#status", has_text="3 of 4 images classified.").wait_for()
    found = [picky.json("/predict", one)[1] for one in asked]
    words = page.locator("#asked b").all_inner_texts()
    assert words[0] == "no answer"
    assert [text.split(",")[0] for text in words[:0:-1]] == [f"unknown (closest: {f['top'][0]['class']}" for f in found]
    assert page.locator("#said").inner_text() == "unknown"
    assert page.locator("#how").inner_text().startswith(f"closest: {found[0]['top'][0]['class']}, ")
    assert page.locator("#asked .soft").last.inner_text() == "a-very-long-name-of…20261126.png"
    page.locator("#asked button").nth(1).press("Enter")  # the third image; by keyboard
    assert page.locator("#how").inner_text().startswith(f"closest: {found[2]['top'][0]['class']}, ")
    assert page.locator("#asked [aria-current]").get_attribute("title") == "3.png"
    page.locator("#examples button").nth(4).click()
    page.locator("#status", has_text=f"{examples['examples'][4]['class']}.png: unknown").wait_for()
    page.click("#camera")
    page.click("#shoot")  # waits until the camera gives pictures
    page.locator("#status", has_text="camera.png: unknown").wait_for()
    assert not Axe().run(page).response["violations"]
    page.click("#close")
    assert page.locator("#viewfinder").is_hidden()
    assert page.evaluate("document.getElementById('video').srcObject") is None
    assert page.locator("#asked li").count() == 6
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert complaints == ["Failed to load resource: the server responded with a status of 400 (Bad Request)"]
    page.close()


# -- from a network --------------------------------------------------------------------------------------------------

TOKEN = "a-token-of-24-characters"


def test_without_the_token_nothing_is_answered_but_that_it_lives(run: RunDirectory, image: bytes) -> None:
    with serving(run, TOKEN) as served:
        assert served.json("/healthz") == (200, {"status": "ok"})
        for path in ("/", "/predict", "/run/report.html", "/metrics", "/examples", "/openapi.json", "/nothing"):
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Cookie": f"daybreak={TOKEN}"}):
                status, found = served.ask(path, image if path == "/predict" else None, **headers)
                assert (status, json.loads(found)["error"]["what"]) == (401, "token")
        assert served.ask("/?token=wrong")[0] == 401
        assert served.ask("/predict?token=" + TOKEN, image)[0] == 401  # an address is no place for it, but once
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert served.ask("/predict", image, **known)[0] == 200
        _, cookie = served.ask("/?token=" + TOKEN)[0], cookie_of(served)
        foreign = 'path=/; odd="; session=a"b; @x=1; '  # what another server on this host may have set
        assert served.ask("/predict", image, Cookie=foreign + cookie)[0] == 200
        assert served.ask("/predict", image, Cookie=cookie[:-1])[0] == 401
        assert served.ask("/run/report.html", **known)[0] == 200
        assert served.ask("/", Host="any.example", **known)[0] == 200  # its pages lack the cookie


def cookie_of(served: Served) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("GET", f"/?token={TOKEN}")
    answer = connection.getresponse()
    connection.close()
    assert (answer.status, answer.getheader("location")) == (303, "./")
    return str(answer.getheader("set-cookie")).partition(";")[0]


def test_whoever_is_named_is_somebody_else(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy on this machine brings the network along: it needs a token, too."""
    assert not ServeOptions(names=("cats.example",)).is_for_this_machine
    assert ServeOptions(names=("cats.example",)).allowed_hosts(True)[-1] == "cats.example"
    assert "127.0.0.2" in ServeOptions(host="127.0.0.2").allowed_hosts(False)
    assert socket.gethostname() in ServeOptions(host="0.0.0.0", names=("a.example",)).allowed_hosts(True)
    for name in ("*cats", "https://cats.example", "cats.example:8443", ""):
        with pytest.raises(UsageError, match="--allow-host"):
            ServeOptions(names=(name,))
    tokens, application_of = list[str | None](), server.application_of

    def seen(subject: ServedRun, options: ServeOptions, token: str | None) -> Any:
        tokens.append(token)
        return application_of(subject, options, token)

    monkeypatch.setattr(server, "application_of", seen)
    monkeypatch.setattr(server, "_check_no_loop", lambda _folder: None)  # the browser's, in this thread
    monkeypatch.setattr(server, "server_of", lambda _application: SimpleNamespace(run=lambda sockets: None))
    for names in ((), ("cats.example",)):
        server.serve(ServedRun(run, "cpu"), ServeOptions(0, names=names), lambda _address: None)
    assert [token is not None for token in tokens] == [False, True]


def test_a_browser_brings_the_token_once(run: RunDirectory, browser: Browser, image: bytes) -> None:
    with serving(run, TOKEN) as served:
        page = browser.new_page()
        assert page.goto(f"http://127.0.0.1:{served.port}/").status == 401  # type: ignore[union-attr]
        page.goto(f"http://127.0.0.1:{served.port}/?token={TOKEN}")
        assert page.url == f"http://127.0.0.1:{served.port}/"
        page.set_input_files("#file", {"name": "seven.png", "mimeType": "image/png", "buffer": image})
        page.wait_for_selector("#maps li")
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], TOKEN in cookie["value"]) == (True, "Lax", False)
        page.close()


@pytest.mark.parametrize(
    ("options", "is_local"),
    [({}, True), ({"host": "::1"}, True), ({"host": "localhost"}, True), ({"host": "0.0.0.0"}, False),
     ({"host": "::"}, False), ({"host": "192.0.2.1"}, False), ({"host": "elsewhere"}, False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(options: dict[str, str], is_local: bool) -> None:
    assert ServeOptions(**options).is_local == is_local  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [b"short", b"", b"with a space in it somewhere", b"a+token/that=needs&quoting", "é".encode() * 20, b"\xff" * 20],
)
def test_a_token_that_keeps_nobody_out_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match="token"):
        ServeOptions(token_file=tmp_path / "token").given_token()


def test_where_the_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServeOptions().given_token() is None
    monkeypatch.setenv("DAYBREAK_TOKEN", TOKEN)
    assert ServeOptions().given_token() == TOKEN
    (tmp_path / "token").write_text(TOKEN[::-1] + "\n")
    assert ServeOptions(token_file=tmp_path / "token").given_token() == TOKEN[::-1]
    with pytest.raises(UsageError, match="No such file"):
        ServeOptions(token_file=tmp_path / "none").given_token()
    assert len({new_token() for _ in range(9)}) == 9


def test_a_network_gets_a_token_and_a_line_for_each_request(run: RunDirectory, image: bytes) -> None:
    """As a command: the address has a new token in it; the log has neither token nor query; SIGTERM ends it."""
    command = [sys.executable, "-m", "daybreak", "serve", run.path, "--port", "0", "--host", "0.0.0.0"]
    command += ["--log", "json", "--reject", "1", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = urlsplit(json.loads(process.stdout.readline())["url"])
        served, token = Served(run, address.port or 0), address.query.removeprefix("token=")
        assert served.ask("/predict?explain=1", image)[0] == 401
        status, found = served.ask("/predict?against=3", image, Authorization=f"Bearer {token}")
        assert (status, json.loads(found)["unknown"]) == (200, True)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
    *lines, last = log.splitlines()
    rows = [json.loads(line) for line in lines]
    assert last == "interrupted"
    kept = [(row["event"], row["client"], row["method"], row["path"], row["status"]) for row in rows]
    assert kept == [("request", "127.0.0.1", "POST", "/predict", status) for status in (401, 200)]
    assert all(0 < row["seconds"] < 60 for row in rows)
    assert (token in log, "against" in log) == (False, False)
    assert len(token) >= 16


def test_a_signal_lets_those_finish_who_have_asked(
    run: RunDirectory, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Busy(monkeypatch)
    with serving(run) as served:
        assert served.server
        asked = [begin_question(served, "", image) for _ in range(100)]
        wait_for(lambda: "daybreak_requests_under_way 101.0" in served.ask("/metrics")[1].decode())
        served.server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.5)
        with pytest.raises(OSError, match="refused"):
            begin_question(served, "", image)
        busy.may_go_on.set()
        assert [answer_of(connection)[0] for connection in asked] == [200] * 100


def test_no_answer_waits_for_an_acknowledgement(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    options = []
    made = guard.PromptProtocol.connection_made

    def seen(self: guard.PromptProtocol, transport: Any) -> None:
        options.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        made(self, transport)

    monkeypatch.setattr(guard.PromptProtocol, "connection_made", seen)
    with serving(run) as served:
        assert served.ask("/healthz")[0] == 200
    assert options == [1]


def test_the_address_that_is_printed_can_be_visited() -> None:
    assert server.address_of("127.0.0.1", 80) == "http://127.0.0.1:80/"
    assert server.address_of("::1", 8000) == "http://[::1]:8000/"
    assert server.address_of("0.0.0.0", 8000) == f"http://{socket.gethostname()}:8000/"


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(UsageError, match=r"^--(host|port) "):
        server.listen(host, 0)


def test_a_log_for_people() -> None:
    facts = {"time": "t", "client": "c", "method": "GET", "path": "/", "status": 200, "seconds": 0.0123}
    assert watch._as_text(facts) == "t c GET / 200 12.3 ms"


# -- its description -------------------------------------------------------------------------------------------------


def described(run: RunDirectory, examples: int) -> subprocess.CompletedProcess[str]:
    """Ask all that the description allows, and what it does not allow."""
    program = Path(sys.executable).with_name("schemathesis")
    with serving(run, TOKEN) as served:
        line = [program, "run", f"http://127.0.0.1:{served.port}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}"]
        line += ["--max-examples", str(examples), "--seed", "1", "--no-color", "--checks", "all"]
        return subprocess.run(line, capture_output=True, text=True, timeout=500, cwd=run.path.parent)


def test_it_answers_as_its_description_says(run: RunDirectory) -> None:
    found = described(run, 10)
    assert found.returncode == 0, found.stdout[-3000:]


# -- those who watch over it, and bundles -----------------------------------------------------------------------------


def test_figures_for_prometheus_count_what_was_asked(run: RunDirectory, image: bytes) -> None:
    with serving(run) as served:
        assert served.json("/healthz") == (200, {"status": "ok"})
        for _ in range(3):
            assert served.ask("/predict", image)[0] == 200
        assert served.ask("/predict", b"no image")[0] == 400
        for number in range(5):
            served.ask(f"/nowhere/{number}")
        status, text = served.ask("/metrics")
    lines = text.decode().splitlines()
    assert status == 200
    assert 'daybreak_requests_total{path="/predict",status="200"} 3.0' in lines
    assert 'daybreak_requests_total{path="/predict",status="400"} 1.0' in lines
    assert 'daybreak_requests_total{path="other",status="404"} 5.0' in lines  # one label, whatever somebody tries
    assert 'daybreak_request_seconds_count{path="/predict"} 4.0' in lines
    assert "daybreak_requests_under_way 1.0" in lines  # this one


@pytest.fixture(scope="module")
def bundle(run: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, out=tmp_path_factory.mktemp("bundles") / "bundle")


ROOT = Path(__file__).parent.parent
IMPORTED = {"scikit-learn": "sklearn", "pillow": "PIL"}


def not_in_the_image() -> list[str]:
    """What daybreak needs and the Dockerfile does not install."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    installed = (ROOT / "docker" / "serve.txt").read_text().splitlines()
    names = {re.split("[>=]", requirement)[0] for requirement in needed} - set(installed)
    assert {"torch", "matplotlib", "scikit-learn"} <= names
    return sorted(IMPORTED.get(name, name).replace("-", "_") for name in names)


def test_the_dockerfile_is_sound() -> None:
    program = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_a_bundle_is_served_without_torch(
    bundle: Path, run: RunDirectory, image: bytes, browser: Browser, tmp_path: Path
) -> None:
    without = "=None, ".join(not_in_the_image())
    code = (
        "import sys\n"
        f"sys.modules.update({without}=None)\n"  # whoever imports them gets an error
        "from daybreak.cli import main\n"
        "main(['serve', sys.argv[1], '--port', '0'])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, bundle], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        served = Served(run, int(address.rstrip("/").rsplit(":", 1)[1]))
        (tmp_path / "image.png").write_bytes(image)
        status, found = served.json("/predict", image)
        (wanted,) = predict(run, [tmp_path / "image.png"], top=5, device="cpu")
        assert status == 200
        assert [row["class"] for row in found["top"]] == [row["class"] for row in wanted["top"]]
        assert found["top"][0]["probability"] == pytest.approx(wanted["top"][0]["probability"], abs=1e-5)
        assert served.json("/predict?class=3", image)[0] == 400  # it draws no maps
        page = browser.new_page(viewport={"width": 390, "height": 844})
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(address)
        page.set_input_files("#file", tmp_path / "image.png")
        page.wait_for_selector("#result:not([hidden])")
        assert page.locator("#top tr").first.inner_text().startswith(wanted["top"][0]["class"])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("#maps, #class").count() == 0
        assert Axe().run(page).violations_count == 0
        assert problems == []
        page.close()
    finally:
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
