"""Data by URL: from a real web server, and from fsspec's file system in memory with faults put into it."""

import functools
import http.server
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from image_sets import sample_files, write_folder, write_npz, write_tar, write_zip

from daybreak.core.errors import DataError, StorageError
from daybreak.data import Dataset, open_dataset, remote

pytestmark = pytest.mark.usefixtures("cache")


class Store(MemoryFileSystem):
    """An object store that can fail, and notes what is read."""

    protocol = "store"
    store: dict[str, Any] = {}  # noqa: RUF012 - fsspec's own way
    pseudo_dirs = [""]  # noqa: RUF012
    read: list[str] = []  # noqa: RUF012
    broken: dict[str, Exception] = {}  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("store://", "memory://", 1))

    def cat_file(self, path: str, *given: Any, **options: Any) -> bytes:
        self.read.append(path)
        if path in self.broken:
            raise self.broken.pop(path)
        return super().cat_file(path, *given, **options)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb" and path in self.broken:
            raise self.broken.pop(path)
        return super()._open(path, mode, **options)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.0)
    fsspec.register_implementation("store", Store, clobber=True)
    found = Store()
    yield found
    for held in (Store.store, Store.read, Store.broken):
        held.clear()
    Store.pseudo_dirs[:] = [""]


def put(store: Store, root: str, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        store.pipe_file(f"{root}/{name}", content)
    return f"store://{root.lstrip('/')}"


def same(one: Dataset, other: Dataset) -> None:
    assert (one.fingerprint, one.classes, one.decode) == (other.fingerprint, other.classes, other.decode)
    np.testing.assert_array_equal(one.train.images_NHWC, other.train.images_NHWC)
    assert (one.train.names, one.test.names) == (other.train.names, other.test.names)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", sample_files(per_class=3))


def test_a_folder_in_a_store_is_the_folder(store: Store, folder: Path) -> None:
    url = put(store, "/bucket/photos", sample_files(per_class=3))
    dataset = open_dataset(url)
    same(dataset, open_dataset(folder))
    assert (dataset.name, dataset.request.data) == ("photos", url)


def test_nothing_is_copied_twice(store: Store) -> None:
    url = put(store, "/bucket/photos", sample_files(per_class=3))
    open_dataset(url)
    assert len(store.read) == 18
    again = open_dataset(url)
    assert len(store.read) == 18
    assert again.seconds["decode"] == 0.0


def test_what_changed_there_is_copied_again_and_nothing_else(store: Store) -> None:
    files = sample_files(per_class=3)
    url = put(store, "/bucket/photos", files)
    first = open_dataset(url)
    store.read.clear()
    put(store, "/bucket/photos", {"train/ant/000.png": files["train/ant/001.png"]})
    store.rm("/bucket/photos/train/bee/002.png")
    second = open_dataset(url)
    assert store.read == ["/bucket/photos/train/ant/000.png"]
    assert (len(first.train.names), len(second.train.names)) == (9, 8)
    np.testing.assert_array_equal(second.train.images_NHWC[0], second.train.images_NHWC[1])


def test_a_class_that_was_renamed_there_leaves_no_empty_folder(store: Store) -> None:
    files = sample_files(per_class=3)
    url = put(store, "/bucket/photos", files)
    open_dataset(url)
    store.rm("/bucket/photos", recursive=True)
    put(store, "/bucket/photos", {name.replace("/cow/", "/dog/"): content for name, content in files.items()})
    assert open_dataset(url).classes == ("ant", "bee", "dog")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "npz"])
def test_an_archive_in_a_store_is_the_archive(store: Store, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"set.{kind}"
    if kind == "npz":
        write_npz(path)
    else:
        (write_zip if kind == "zip" else write_tar)(path, sample_files())
    url = put(store, "/bucket", {path.name: path.read_bytes()})
    same(open_dataset(f"{url}/{path.name}"), open_dataset(path))


def test_a_table_brings_its_images(store: Store) -> None:
    files = sample_files(per_class=3, parts=("",))
    rows = "".join(f"pictures/{name},{name.split('/')[0]}\n" for name in files)
    put(store, "/bucket", {f"pictures/{name}": content for name, content in files.items()} | {"unlisted.png": b""})
    url = put(store, "/bucket", {"all.csv": f"image,label\n{rows}".encode()}) + "/all.csv"
    first = open_dataset(url)
    assert first.classes == ("ant", "bee", "cow")
    assert sorted(store.read) == ["/bucket/all.csv", *sorted(f"/bucket/pictures/{name}" for name in files)]
    store.rm("/bucket/pictures/ant/000.png")
    with pytest.raises(DataError, match=r"1 of 9 images cannot be used: pictures/ant/000.png"):
        open_dataset(url)


def test_a_part_of_an_older_table_is_not_gone_on_with(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "BLOCK_BYTES", 10)
    files = sample_files(per_class=3, parts=("",))
    rows = "".join(f"{name},{name.split('/')[0]}\n" for name in files)
    url = put(store, "/bucket", {**files, "all.csv": f"image,label\n{rows}".encode()}) + "/all.csv"
    store.broken["/bucket/all.csv"] = PermissionError("later")
    with pytest.raises(DataError):
        open_dataset(url)
    (copy,) = (cache / "copies").iterdir()
    (copy / ".all.csv.part").write_bytes(b"image,class_of_another_file\n" * 3)
    assert open_dataset(url).classes == ("ant", "bee", "cow")


def test_a_broken_line_is_tried_again(store: Store, folder: Path) -> None:
    url = put(store, "/bucket/photos", sample_files(per_class=3))
    store.broken["/bucket/photos/train/bee/001.png"] = ConnectionResetError("the line broke")
    same(open_dataset(url), open_dataset(folder))


def test_a_copy_that_was_broken_off_goes_on(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "AT_A_TIME", 1)
    url = put(store, "/bucket/photos", sample_files(per_class=3))
    store.broken["/bucket/photos/train/ant/002.png"] = PermissionError("not for you")
    with pytest.raises(DataError, match=r"store://bucket/photos: .*002.png: cannot be read \(not for you\)"):
        open_dataset(url)
    before = set(store.read)
    store.read.clear()
    same(open_dataset(url), open_dataset(folder))
    assert set(store.read) & before == {"/bucket/photos/train/ant/002.png"}


def test_a_large_file_goes_on_behind_its_last_sure_block(
    store: Store, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last whole block of the part may not have reached the disk, so it is fetched again with what follows."""
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1000)
    path = write_zip(tmp_path / "set.zip", sample_files(per_class=20))
    content = path.read_bytes()
    assert len(content) > 5000
    url = put(store, "/bucket", {"set.zip": content}) + "/set.zip"
    store.broken["/bucket/set.zip"] = PermissionError("later")
    with pytest.raises(DataError):
        open_dataset(url)
    (copy,) = (cache / "copies").iterdir()
    (copy / ".set.zip.part").write_bytes(content[:2000] + b"x" * 1500)  # a second and a half of it is what came
    seeks: list[int] = []
    original = remote._append

    def noted(source: Any, part: Path, begun: int) -> None:
        seeks.append(begun)
        original(source, part, begun)

    monkeypatch.setattr(remote, "_append", noted)
    same(open_dataset(url), open_dataset(path))
    assert seeks == [2000]


def test_a_file_that_is_not_as_long_as_announced_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    url = put(store, "/bucket/photos", sample_files(per_class=3))
    monkeypatch.setattr(Store, "cat_file", lambda *_: b"cut")
    with pytest.raises(DataError, match=r"3 bytes came, \d+ were announced"):
        open_dataset(url)


def test_no_room_is_said_before_anything_is_copied(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    url = put(store, "/bucket/photos", sample_files(per_class=3))
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match=r"bytes to copy from store://bucket/photos, 1,000 are free"):
        open_dataset(url)
    assert store.read == []


def test_damage_to_the_copy_is_mended(store: Store, cache: Path, folder: Path) -> None:
    url = put(store, "/bucket/photos", sample_files(per_class=3))
    open_dataset(url)
    (copied,) = (cache / "copies").glob("*/photos/train/ant/001.png")
    copied.write_bytes(b"short")
    (plan,) = (cache / "copies").glob("*/plan.json")
    same(open_dataset(url), open_dataset(folder))
    plan.write_text("{")
    store.read.clear()
    same(open_dataset(url), open_dataset(folder))
    assert len(store.read) == 18


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nope://bucket/x", r"nope://bucket/x: cannot be reached \(Protocol not known: nope\)"),
        ("gs://bucket/x", r"gs://bucket/x: needs a package that is not installed; .*gcsfs"),
        ("ftp://me:secret@host/x", r"^ftp://host/x: has a password"),
        ("http://host/x.zip?id=1&X-Amz-Signature=secret", r"^http://host/x.zip: has X-Amz-Signature in it, .*download"),
        ("https://host/x.zip?access_token=secret#a", r"^https://host/x.zip: has access_token in it"),
        ("zip::store://bucket/x.zip", r"chain of file systems"),
        ("store://bucket/none", r"store://bucket/none: .*"),
        ("store://bucket/none.zip", r"cannot be read"),
    ],
)
def test_negative_controls(store: Store, url: str, why: str) -> None:  # noqa: ARG001
    with pytest.raises(DataError, match=why) as caught:
        open_dataset(url)
    assert "secret" not in str(caught.value)


def test_names_that_climb_are_refused(store: Store, cache: Path) -> None:
    put(store, "/bucket/photos", sample_files())
    store.store["/bucket/photos/../../../evil.png"] = store.store["/bucket/photos/train/ant/000.png"]
    with pytest.raises(DataError, match="unsafe name"):
        open_dataset("store://bucket/photos")
    assert list(cache.glob("**/evil.png")) == []


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Lists folders and sends files, but no ranges of them."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    root = tmp_path / "www"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_folder_on_a_web_server(served: tuple[str, Path], folder: Path) -> None:
    url, root = served
    write_folder(root / "photos", sample_files(per_class=3))
    same(open_dataset(f"{url}/photos/"), open_dataset(folder))
    for part in ("train", "test"):
        (root / f"photos/{part}/ant").rename(root / f"photos/{part}/a b&ä")
    assert "a b&ä" in open_dataset(f"{url}/photos/").classes


def test_an_archive_on_a_web_server_that_sends_no_ranges(
    served: tuple[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1000)
    url, root = served
    path = write_zip(root / "set.zip", sample_files(per_class=20))
    same(open_dataset(f"{url}/set.zip"), open_dataset(path))
    time.sleep(1.1)  # the server tells times to the second
    write_zip(path, sample_files(per_class=21))
    (copy,) = (cache / "copies").iterdir()
    (copy / ".set.zip.part").write_bytes(b"x" * 4000)  # of another file: the stamp has changed
    same(open_dataset(f"{url}/set.zip"), open_dataset(path))


def test_what_a_url_asks_for_is_no_part_of_the_name(served: tuple[str, Path]) -> None:
    """As file hosts have it: photos.zip?download=1, or dl=0/1 for a table, whose images then are beside it."""
    url, root = served
    path = write_zip(root / "set.zip", sample_files(per_class=3))
    found = open_dataset(f"{url}/set.zip?download=1&design=a/b")
    same(found, open_dataset(path))
    assert found.name == "set"
    write_folder(root / "photos", files := sample_files(per_class=3))
    rows = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in files]
    (root / "photos/list.csv").write_text("\n".join(["image,label,split", *rows]))
    same(open_dataset(f"{url}/photos/list.csv?dl=0/1"), open_dataset(root / "photos/list.csv"))


def test_shards_on_a_web_server(served: tuple[str, Path], tmp_path: Path) -> None:
    from test_data_shards import write_shards

    url, root = served
    write_shards(root / "shards")
    same(open_dataset(f"{url}/shards"), open_dataset(write_shards(tmp_path / "here")))


def test_a_run_trains_and_resumes_from_a_url(served: tuple[str, Path], tmp_path: Path) -> None:
    import daybreak as db

    url, root = served
    write_folder(root / "photos", sample_files(per_class=12))
    run = db.train(f"{url}/photos", recipe="small", epochs=1, report=False, out=tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["request"]["data"] == f"{url}/photos"
    assert db.load(tmp_path / "run").evaluate().accuracy == run.directory.summary["test_acc"]


def test_progress_is_told(store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("daybreak.core.count.SECONDS_BETWEEN_LINES", -1.0)
    url = put(store, "/bucket/photos", sample_files(per_class=3))
    with caplog.at_level(logging.INFO, logger="daybreak"):
        open_dataset(url)
    assert "copied 9 of 18 files" in caplog.text
