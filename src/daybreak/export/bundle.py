"""A bundle, read and asked: no torch in here, so that it starts in a fraction of a second and needs little memory.

Nothing in a bundle is run but its ONNX graph: `predict.py` is for those who have no daybreak. One in the layout of the
Hugging Face hub has no graph; `export.hub` asks it, by torch.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daybreak.core.config import Tta
from daybreak.core.count import Count
from daybreak.core.errors import RunError, UsageError, one_line
from daybreak.core.extras import needing
from daybreak.data.dataset import images_a_block, release
from daybreak.data.image import DecodeSpec
from daybreak.data.match import open_like
from daybreak.data.sources import NAMES
from daybreak.evaluation.evaluation import Evaluation
from daybreak.evaluation.files import answer_rows, check_reject, find_images, read_images
from daybreak.runs.predictions import Predictions

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

log = logging.getLogger(__name__)

FACTS = "bundle.json"
MODEL = "model.onnx"
CONFIG = "config.json"  # only in the hub's layout
INPUT = "images"
FORMAT = 1
A_FORWARD = 64  # images of 32 px; fewer of larger ones


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Decode(_Part):
    size: int = Field(ge=1, le=4096)
    channels: int = Field(ge=1, le=3)


class How(_Part):
    """Arguments of `open_dataset`."""

    size: int | None
    split_seed: int = Field(ge=0)
    skip_bad: bool
    validate_: float | None = Field(alias="validate")
    parts_of_0_1_0: bool

    def as_arguments(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)


class Data(_Part):
    """What the net was trained on.

    Attributes:
        name: where it is a data set that daybreak knows by name; no path of a machine is in here.
        how: arguments of `open_dataset`.
    """

    title: str
    name: str | None
    fingerprint: str
    how: How


class Facts(_Part):
    """bundle.json.

    Attributes:
        form: onnx, pt2, safetensors or hub.
        decode: how image files become arrays.
        side: px of the largest images in the graph: how many fit in memory follows from it.
        results: what was measured on the run's test part.
        files: SHA-256 (hex) of each other file.
    """

    format: int
    name: str
    form: str
    int8: bool
    classes: tuple[str, ...] = Field(min_length=1)
    decode: _Decode
    side: int = Field(ge=1, le=4096)
    data: Data
    results: dict[str, Any]
    files: dict[str, str]


def is_bundle(path: Path | str) -> bool:
    return (Path(path) / FACTS).is_file()


def is_hub(path: Path | str) -> bool:
    """Whether a bundle is in the layout of the Hugging Face hub."""
    return is_bundle(path) and (Path(path) / CONFIG).is_file()


def read_facts(folder: Path, model: str, command: str) -> Facts:
    """bundle.json of a folder, whose files are those that were written.

    Args:
        model: the file with the net.
        command: writes a bundle with such a file.

    Raises:
        RunError: they are not, or `model` is not among them.
    """
    remedy = "a whole copy of the folder, or daybreak export again"
    try:
        facts = Facts.model_validate_json((folder / FACTS).read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(folder / FACTS, f"cannot be read ({str(error).splitlines()[0]})", remedy) from None
    if facts.format != FORMAT:
        raise RunError(folder / FACTS, "written by another version of daybreak", "upgrade daybreak")
    if model not in facts.files:
        raise RunError(folder, f"holds no {model}", command)
    for name, expected in facts.files.items():
        if Path(name).name != name or _sum_of(folder / name) != expected:
            raise RunError(folder / name, "not what was exported", remedy)
    return facts


class Bundle:
    """An exported net in its folder.

    Args:
        threads: of a call; by default as many as the library takes.
    """

    model = MODEL

    def __init__(self, path: Path, facts: Facts, threads: int | None = None) -> None:
        self.path, self.facts, self.threads = path, facts, threads
        self.classes, self.decode = facts.classes, DecodeSpec(facts.decode.size, facts.decode.channels)

    @classmethod
    def open(cls, path: Path | str) -> "Bundle":
        """
        Raises:
            RunError: it is none, its files are not those that were written, or it holds no ONNX graph.
        """
        return cls(Path(path), read_facts(Path(path), MODEL, "daybreak export RUN --format onnx"))

    def probabilities(self, images_NHWC: np.ndarray) -> np.ndarray:
        """(N, K), float32, of uint8 images (N, H, W, C) of any size."""
        return self._answers(images_NHWC)[0]

    def at_once(self, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, K) and energies (N,) of images in one call of the net.

        Raises:
            UsageError: a package is missing.
            RunError: the net is not one of ours.
        """
        self.load()
        try:
            probability_NK, energy_N = self._ask(images_NHWC)
        except Exception as error:  # whatever the library says of a net
            raise RunError(
                self.path / self.model, f"cannot be run ({one_line(error)[:200]})", "another bundle"
            ) from None
        if probability_NK.shape != (len(images_NHWC), len(self.classes)) or energy_N.shape != (len(images_NHWC),):
            raise RunError(self.path / self.model, "does not answer with its classes", "another bundle")
        return probability_NK, energy_N

    def load(self) -> "Bundle":
        """Load the net now, where it would be at the first image.

        Raises:
            UsageError: a package is missing.
            RunError: it cannot be loaded.
        """
        _ = self._session
        return self

    @property
    def images_a_call(self) -> int:
        """How many images to ask about at once."""
        return images_a_block(self.facts.side, A_FORWARD)

    def predict(
        self, images: Sequence[str | Path], *, top: int = 3, reject: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """As `daybreak.evaluation.predict.predict` has it for a run."""
        check_reject(reject)
        files, batch = find_images(images), self.images_a_call
        count = Count(log, "predicted", len(files))
        for start in range(0, len(files), batch):
            part = files[start : start + batch]
            probability_NK, energy_N = self._answers(read_images(part, self.decode))
            yield from answer_rows(part, probability_NK, energy_N, self.classes, top, reject)
            count.add(len(part))

    def evaluate(self, data: str | Path | None = None) -> Evaluation:
        """What it says about the test part of its own data, or of other data with the same classes.

        Raises:
            DataError: see `daybreak.data.match.open_like`.
        """
        own = self.facts.data
        if data is None and own.name not in NAMES:  # a stranger's bundle names no place on this machine
            raise UsageError(self.path, f"{own.title} is no data set that daybreak knows by name", "--data DATA")
        whose = f"the bundle {self.path}"
        dataset = open_like(
            data or own.name or "", self.classes, self.decode, own.how.as_arguments(), own.fingerprint, whose
        )
        images, labels_N = dataset.test.images_NHWC, np.asarray(dataset.test.labels_N)
        logits_NK = np.log(np.maximum(self.probabilities(images), 1e-30))
        predictions = Predictions(logits_NK, logits_NK, labels_N, np.asarray(dataset.test.names, dtype=np.str_))
        tta: Tta = "none"
        return Evaluation(predictions, self.classes, tta, dataset.title, dataset.notes)

    def _answers(self, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and energies, of a block of images at a time."""
        batch, found = self.images_a_call, []
        for start in range(0, len(images_NHWC), batch):
            found.append(self.at_once(np.ascontiguousarray(images_NHWC[start : start + batch])))
            release(images_NHWC)
        probabilities, energies = zip(*found, strict=True)
        return np.concatenate(probabilities), np.concatenate(energies)

    def _ask(self, images_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and energies by the net, which has been loaded."""
        probability_NK, energy_N = self._session.run(["probabilities", "energy"], {INPUT: images_NHWC})
        return probability_NK, energy_N

    @cached_property
    def _session(self) -> "InferenceSession":
        with needing("export", self.path):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        try:
            return onnxruntime.InferenceSession(self.path / MODEL, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever the library says of a graph
            raise RunError(self.path / MODEL, f"cannot be loaded ({str(error)[:200]})", "another bundle") from None


def _sum_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return "missing"
