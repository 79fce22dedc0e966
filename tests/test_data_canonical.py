"""The published formats, in small archives that these tests write, with size and hash of those in the table."""

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_sets import idx, pixels, sample_files, write_zip

from daybreak.core.errors import DataError
from daybreak.data import DecodeSpec, open_dataset
from daybreak.data.canonical import PUBLISHED
from daybreak.data.sources import KNOWN_ARCHIVES

pytestmark = pytest.mark.usefixtures("cache")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    monkeypatch.setenv("DAYBREAK_DATA_DIR", str(folder))
    return folder


def publish(monkeypatch: pytest.MonkeyPatch, shelf: Path, name: str, contents: list[bytes]) -> None:
    """Put files on the shelf and enter their size and hash into the table of published files."""
    published = PUBLISHED[name]
    files = []
    for file, data in zip(published.files, contents, strict=True):
        (shelf / file.path).parent.mkdir(parents=True, exist_ok=True)
        (shelf / file.path).write_bytes(data)
        files.append(replace(file, size=len(data), sha256=hashlib.sha256(data).hexdigest()))
    monkeypatch.setitem(PUBLISHED, name, replace(published, files=tuple(files)))


def tar_gz(folder: str, members: dict[str, object]) -> bytes:
    """Members are pickled, unless they are pickles already; protocol 2 is that of the published archives."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, value in members.items():
            data = value if isinstance(value, bytes) else pickle.dumps(value, protocol=2)
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def batch(images_NHWC: np.ndarray, labels: list[int], key: bytes = b"labels", tag: str = "x") -> dict:
    planes = images_NHWC.transpose(0, 3, 1, 2).reshape(len(images_NHWC), 3072)
    names = [f"{tag}_{i}.png".encode() for i in range(len(labels))]
    return {b"data": np.ascontiguousarray(planes), key: labels, b"filenames": names, b"batch_label": b"one"}


def cifar10_members() -> dict[str, object]:
    images = pixels(20, side=32).reshape(5, 4, 32, 32, 3)
    labels = [[(4 * i + j) % 10 for j in range(4)] for i in range(5)]
    members: dict[str, object] = {f"data_batch_{i + 1}": batch(images[i], labels[i], tag=str(i)) for i in range(5)}
    members["test_batch"] = batch(pixels(10, side=32, seed=1), list(range(10)), tag="t")
    members["batches.meta"] = {b"label_names": [name.encode() for name in CIFAR10], b"num_vis": 3072}
    return members


def test_cifar10_is_read_as_published(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    publish(monkeypatch, shelf, "cifar10", [tar_gz("cifar-10-batches-py", cifar10_members())])
    dataset = open_dataset("cifar10")
    assert (dataset.name, dataset.title, dataset.classes) == ("cifar10", "CIFAR-10", CIFAR10)
    assert dataset.decode == DecodeSpec(32, 3)
    np.testing.assert_array_equal(dataset.train.images_NHWC, pixels(20, side=32))
    np.testing.assert_array_equal(dataset.test.images_NHWC, pixels(10, side=32, seed=1))
    assert dataset.train.labels_N.tolist() == [i % 10 for i in range(20)]
    assert dataset.train.names[5] == "train/1_1.png"
    assert dataset.test.names[9] == "test/t_9.png"
    by_path = open_dataset(shelf / "cifar-10-python.tar.gz")
    assert (by_path.name, by_path.fingerprint) == ("cifar10", dataset.fingerprint)


def know(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Enter an archive into the table of known ones, as CIFAR-10."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(KNOWN_ARCHIVES, digest, ("cifar10", "CIFAR-10"))


def test_cifar10_may_be_a_known_archive_of_images(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    shelf.mkdir()
    know(monkeypatch, write_zip(shelf / "cifar10.zip", sample_files(per_class=20)))
    dataset = open_dataset("cifar10")
    assert (dataset.name, dataset.title, dataset.request.data) == ("cifar10", "CIFAR-10", "cifar10")
    np.testing.assert_array_equal(dataset.train.images_NHWC, pixels(60))
    assert dataset.validation is None  # published: nothing is held out, though each class has twenty images
    assert dataset.seconds["download"] == 0
    by_path = open_dataset(shelf / "cifar10.zip")
    assert (by_path.name, by_path.title, by_path.fingerprint) == ("cifar10", "CIFAR-10", dataset.fingerprint)


def test_the_canonical_archive_of_cifar10_comes_first(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    publish(monkeypatch, shelf, "cifar10", [tar_gz("cifar-10-batches-py", cifar10_members())])
    know(monkeypatch, write_zip(shelf / "cifar10.zip", sample_files()))
    assert len(open_dataset("cifar10").train.names) == 20


def test_another_archive_called_cifar10_is_passed_by(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    shelf.mkdir()
    write_zip(shelf / "cifar10.zip", sample_files())
    monkeypatch.setattr("daybreak.data.sources.fetch", lambda file, _: pytest.fail(f"{file.path} was fetched"))
    with pytest.raises(pytest.fail.Exception, match=r"cifar-10-python\.tar\.gz was fetched"):
        open_dataset("cifar10")


def test_a_known_archive_is_read_once_to_know_it(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    shelf.mkdir()
    know(monkeypatch, write_zip(shelf / "cifar10.zip", sample_files()))
    first = open_dataset("cifar10")
    for name in ("sha256_of", "open_archive"):
        monkeypatch.setattr(f"daybreak.data.sources.{name}", lambda *_, name=name: pytest.fail(f"{name} was called"))
    assert open_dataset("cifar10").fingerprint == first.fingerprint


def test_cifar100_uses_the_fine_labels(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    names = [f"class{i:02}".encode() for i in range(100)]
    part = batch(pixels(100, side=32), list(range(100))[::-1], b"fine_labels") | {b"coarse_labels": [0] * 100}
    members = {"train": part, "test": part, "meta": {b"fine_label_names": names, b"coarse_label_names": []}}
    publish(monkeypatch, shelf, "cifar100", [tar_gz("cifar-100-python", members)])
    dataset = open_dataset("cifar100")
    assert dataset.classes[7] == "class07"
    assert dataset.train.labels_N.tolist() == list(range(100))[::-1]
    np.testing.assert_array_equal(dataset.test.images_NHWC, pixels(100, side=32))


def idx_contents() -> list[bytes]:
    labels = np.arange(20) % 10
    train, test = pixels(20, side=28, channels=1)[..., 0], pixels(10, side=28, channels=1, seed=1)[..., 0]
    return [idx(train), idx(labels), idx(test), idx(labels[:10])]


@pytest.mark.parametrize(("name", "third"), [("mnist", "2"), ("fashion-mnist", "Pullover")])
def test_idx_files_are_read_as_published(shelf: Path, monkeypatch: pytest.MonkeyPatch, name: str, third: str):
    publish(monkeypatch, shelf, name, idx_contents())
    dataset = open_dataset(name)
    assert dataset.decode == DecodeSpec(28, 1)
    np.testing.assert_array_equal(dataset.train.images_NHWC, pixels(20, side=28, channels=1))
    np.testing.assert_array_equal(dataset.test.images_NHWC, pixels(10, side=28, channels=1, seed=1))
    assert dataset.test.labels_N.tolist() == list(range(10))
    assert dataset.classes[2] == third


def test_idx_files_that_do_not_fit_are_refused(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    good = idx_contents()
    labels = np.arange(20) % 10
    for index, wrong in [(0, good[1]), (1, idx(labels + 1)), (1, idx(labels[:19])), (0, b"text"), (0, good[0][:90])]:
        publish(monkeypatch, shelf, "mnist", [wrong if i == index else data for i, data in enumerate(good)])
        with pytest.raises(DataError, match="not in the published format"):
            open_dataset("mnist")


class Bomb:
    """Leaves a file behind when a careless unpickler builds it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_a_malicious_pickle_runs_nothing(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mark = tmp_path / "mark"
    members = cifar10_members()
    hostile = pickle.dumps(members["data_batch_3"] | {b"extra": Bomb(mark)}, protocol=2)
    publish(monkeypatch, shelf, "cifar10", [tar_gz("cifar-10-batches-py", members | {"data_batch_3": hostile})])
    with pytest.raises(DataError, match="not allowed"):
        open_dataset("cifar10")
    assert not mark.exists()
    pickle.loads(hostile)  # negative control: the pickle does bite
    assert mark.exists()


@pytest.mark.parametrize(
    "call", [b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nload\n", b"cnumpy.core.multiarray\nfromfile\n"]
)
def test_only_what_arrays_need_can_be_named_in_a_pickle(shelf: Path, monkeypatch: pytest.MonkeyPatch, call: bytes):
    members = cifar10_members() | {"data_batch_1": call + b"(S'true'\ntR."}
    publish(monkeypatch, shelf, "cifar10", [tar_gz("cifar-10-batches-py", members)])
    with pytest.raises(DataError, match="not allowed"):
        open_dataset("cifar10")


def test_arrays_that_are_not_plain_bytes_are_refused(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    good = batch(pixels(4, side=32), [0, 1, 2, 3])
    rows = good[b"data"]
    wrongs = [rows.astype(np.int32), np.asfortranarray(rows), rows.astype(object), rows[:, :100], rows.tolist()]
    for wrong in wrongs:
        members = cifar10_members() | {"data_batch_1": good | {b"data": wrong}}
        publish(monkeypatch, shelf, "cifar10", [tar_gz("cifar-10-batches-py", members)])
        with pytest.raises(DataError, match="not in the published format"):
            open_dataset("cifar10")


def test_missing_members_and_wrong_labels_are_named(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    images = pixels(4, side=32)
    changes: list[tuple[dict, str]] = [
        ({"test_batch": None}, "cifar-10-batches-py/test_batch is missing"),
        ({"data_batch_1": batch(images, [0, 1, 2, 10])}, "do not match"),
        ({"data_batch_1": batch(images, [0, 1, 2])}, "3 file names for 4 images"),
        ({"data_batch_1": batch(images, ["a"] * 4)}, "bad labels"),
        ({"batches.meta": {}}, "no class names"),
    ]
    for change, match in changes:
        members = {name: value for name, value in (cifar10_members() | change).items() if value is not None}
        publish(monkeypatch, shelf, "cifar10", [tar_gz("cifar-10-batches-py", members)])
        with pytest.raises(DataError, match=match):
            open_dataset("cifar10")


def test_a_file_that_is_not_the_published_one_is_never_opened(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    publish(monkeypatch, shelf, "cifar10", [tar_gz("cifar-10-batches-py", cifar10_members())])
    path = shelf / "cifar-10-python.tar.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(
        "daybreak.data.cifar.tarfile.open", lambda *_: pytest.fail("opened before the hash was checked")
    )
    with pytest.raises(DataError, match="not the published file") as caught:
        open_dataset("cifar10")
    assert PUBLISHED["cifar10"].files[0].sha256 in str(caught.value)


def test_a_file_swapped_after_it_was_remembered_is_checked_again(shelf: Path, monkeypatch: pytest.MonkeyPatch):
    import os

    publish(monkeypatch, shelf, "cifar10", [tar_gz("cifar-10-batches-py", cifar10_members())])
    open_dataset("cifar10")
    path = shelf / "cifar-10-python.tar.gz"
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="not the published file"):
        open_dataset("cifar10", size=16)  # another size needs the file


def test_a_folder_of_the_same_name_does_not_take_the_names_place(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    publish(monkeypatch, shelf, "cifar10", [tar_gz("cifar-10-batches-py", cifar10_members())])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    assert open_dataset("cifar10").notes == ("./cifar10 is not used: the name means CIFAR-10",)


def test_the_table_of_published_files():
    """The values people compare against; a slip of the finger here would refuse the true file."""
    files = {file.path: file for published in PUBLISHED.values() for file in published.files}
    assert len(files) == 10
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in files.values())
    assert all(url.startswith("https://") for file in files.values() for url in file.urls)
    assert all(len(file.urls) >= 2 for file in files.values())
    assert files["cifar-10-python.tar.gz"].size == 170_498_071
    assert files["cifar-10-python.tar.gz"].urls[0] == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert files["cifar-100-python.tar.gz"].size == 169_001_437
