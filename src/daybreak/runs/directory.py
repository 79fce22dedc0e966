"""The run directory: written and read here only. Its files: docs/run-directory.md."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save
from torch import nn

from daybreak.core.config import Device, Recipe
from daybreak.core.damaged import BROKEN_ARRAY, arrays_in, texts_of
from daybreak.core.device import compute_dtype, pick_device
from daybreak.core.errors import RunError, UsageError
from daybreak.core.files import (
    free_name,
    is_leftover,
    make_folder,
    remove_leftovers,
    storage_errors,
    whole_file,
    write_bytes,
    write_json,
)
from daybreak.core.locks import LOCK, locked
from daybreak.core.options import TrainOptions
from daybreak.core.plugins import Factory
from daybreak.models.layers import use_convolutions
from daybreak.models.registry import place
from daybreak.models.winograd.choice import Convolutions
from daybreak.runs.card import ModelCard, card_values, net_of_card, read_card
from daybreak.runs.classifier import Classifier
from daybreak.runs.metrics_log import MetricsLog
from daybreak.runs.metrics_rows import Kept
from daybreak.runs.old_format import options_of, recipe_of
from daybreak.runs.predictions import Predictions
from daybreak.runs.reading import read_json
from daybreak.runs.schemas import Config, Summary, read_as
from daybreak.runs.transforms import Normalizer

OUTDATED = "outdated"  # begins the name of what was exported from other weights


class RunDirectory:
    """A run on disk: its configuration, metrics, net, predictions and summary, typed. Everything after training sees
    training only through this class; files that are not about a training are written with `core.files`."""

    def __init__(self, path: Path | str, net: Factory | None = None) -> None:
        self.path, self.net_factory = Path(path), net

    @classmethod
    @contextmanager
    def create(cls, out: "Path | Iterable[Path]", net: Factory | None = None) -> "Iterator[RunDirectory]":
        """Make a directory and hold it against other writers while the block runs.

        Args:
            out: the directory, which must be empty if it exists; or names, of which the first that is free is taken.
            net: as for `open`.

        Raises:
            UsageError: it exists and is not empty.
            BusyError: another process writes to it.
            StorageError: it cannot be made.
        """
        path = out if isinstance(out, Path) else _first_free(out)
        cls.check_new(path)
        with storage_errors(path):
            make_folder(path)
        with locked(path):
            cls._check_empty(path)
            remove_leftovers(path)  # of a run that was killed before it had written anything
            yield cls(path, net)

    @classmethod
    def check_new(cls, path: Path) -> None:
        """Whether `create` could make it now.

        Raises:
            As `create`.
        """
        with storage_errors(path):
            is_file = path.exists() and not path.is_dir()
        if is_file:
            raise UsageError(f"--out {path}", "is a file", "another directory")
        if path.is_dir():
            with locked(path):
                cls._check_empty(path)

    @staticmethod
    def _check_empty(path: Path) -> None:
        with storage_errors(path):
            found = [file for file in path.iterdir() if file.name != LOCK]
        if not all(is_leftover(file, "config.json") for file in found):
            raise UsageError(f"--out {path}", "exists and is not empty", "another directory, or remove it first")

    @classmethod
    @contextmanager
    def reopen(cls, path: Path | str, net: Factory | None = None) -> "Iterator[RunDirectory]":
        """A run made earlier, to go on with, held against other writers. What a killed one left unfinished is removed.

        Raises:
            RunError: there is no run at this path.
            BusyError: another process writes to it.
        """
        run = cls.open(path, net)
        with locked(run.path):
            remove_leftovers(run.path)
            yield run

    @classmethod
    def open(cls, path: Path | str, net: Factory | None = None) -> "RunDirectory":
        """A run made earlier.

        Args:
            net: makes the net, where it is neither daybreak's nor an installed package's own. What a directory names is
                not imported: it may come from anyone.

        Raises:
            RunError: there is no run at this path.
        """
        run = cls(path, net)
        if not (run.path / "config.json").is_file():
            raise RunError(
                run.path, "not a run directory (no config.json)", "the directory that daybreak train printed"
            )
        return run

    # Reading

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_as(self.path / "config.json", Config)

    @property
    def summary(self) -> dict[str, Any]:
        return read_as(self.path / "summary.json", Summary)

    @property
    def has_result(self) -> bool:
        """Whether training ended, by itself or by a signal, without an error."""
        return (self.path / "summary.json").exists() and self.summary.get("error") is None

    def is_finished(self, step: int) -> bool:
        """Whether the run ended by itself, and this step was its last."""
        return self.has_result and self.summary.get("interrupted") is None and self.summary["steps"] == step

    @property
    def recipe(self) -> Recipe:
        try:
            return recipe_of(self.config.get("recipe", {}))
        except UsageError as error:
            raise RunError(self.path / "config.json", f"{error.what}: {error.why}", "upgrade daybreak") from None

    @property
    def options(self) -> TrainOptions:
        """What the run was asked to do."""
        try:
            return options_of(self.config)
        except (UsageError, TypeError, AttributeError) as error:
            raise RunError(self.path / "config.json", f"cannot be read ({error})", "upgrade daybreak") from None

    def metrics(self, event: str) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl of one kind, `step` or `epoch`."""
        return self._metrics.rows(event)

    @cached_property
    def card(self) -> ModelCard:
        return read_card(self.path / "model.json")

    def classifier(self, device: Device = "auto") -> Classifier:
        """The trained net, ready to use, in evaluation mode.

        Raises:
            RunError: the weights are missing, damaged, or of another net.
        """
        card, where = self.card, pick_device(device)
        net = self.net_from(self.path / "model.safetensors")
        place(net, where).eval()
        use_convolutions(net, Convolutions.of(self.config.get("convolutions")))
        dtype = compute_dtype(card.precision, where)
        normalize = Normalizer(card.mean, card.std)
        return Classifier(net, card.classes, card.size, normalize, where, dtype, self.recipe.mirrors)

    def net_from(self, weights: Path) -> nn.Module:
        """The net of model.json with the weights of a file.

        Raises:
            RunError: they are missing, damaged, or of another net.
        """
        return net_of_card(self.card, self.path / "model.json", weights, self.net_factory)

    def predictions(self) -> Predictions | None:
        """The test predictions, or None where the run ended before it made any."""
        path = self.path / "predictions.npz"
        if not path.exists():
            return None
        try:
            found = Predictions(*arrays_in(path, "logits", "logits_tta", "labels", "names"))
            texts_of(found.names)  # raises where they are none
            return found
        except (*BROKEN_ARRAY, KeyError) as error:
            raise RunError(path, f"cannot be read ({error})", "remove it; daybreak evaluate makes it again") from None

    def suspects(self) -> dict[str, Any] | None:
        """The labels that `daybreak suspects` found to be probably wrong, or None if it has not been run."""
        return read_json(self.path / "suspects.json") if (self.path / "suspects.json").exists() else None

    @property
    def checkpoints(self) -> Path:
        """The folder of the resumable states (`daybreak.training.checkpoint`)."""
        return self.path / "checkpoints"

    # Writing

    def write_config(self, config: Mapping[str, Any]) -> None:
        write_json(self.path / "config.json", config)
        self.__dict__.pop("config", None)  # read before, and cached

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_json(self.path / "summary.json", summary)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl, and one of an epoch to metrics.csv too."""
        self._metrics.append(row)

    def flush_metrics(self) -> int:
        """Make the rows survive a power cut; returns how many bytes metrics.jsonl has."""
        return self._metrics.flush()

    def metrics_until(self, step: int, size: int) -> Kept:
        """What of the metrics is kept when the run goes on after this step, at which metrics.jsonl had `size` bytes:
        the steps of all other rows are about to be taken again. Nothing is written."""
        return self._metrics.until(step, size)

    def keep_metrics(self, kept: Kept) -> None:
        """Drop all other rows."""
        self._metrics.keep(kept)

    def write_model(self, net: nn.Module, card: ModelCard) -> None:
        write_json(self.path / "model.json", card_values(card))
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
        write_bytes(self.path / "model.safetensors", save(weights))

    def write_predictions(self, predictions: Predictions) -> None:
        with whole_file(self.path / "predictions.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **asdict(predictions), indices=np.arange(len(predictions.labels)))

    def remove_results(self) -> None:
        """Remove the results of weights that are about to be replaced. What was exported, and perhaps edited, is kept
        under another name."""
        for name in ("summary.json", "predictions.npz", "report.html"):
            with storage_errors(self.path / name):
                (self.path / name).unlink(missing_ok=True)
        for bundle in [file.parent for file in self.path.glob("*/bundle.json")]:
            if not bundle.name.startswith(f"{OUTDATED}-"):
                with storage_errors(bundle):
                    bundle.rename(free_name(bundle, OUTDATED))
        found = self.suspects() or {}
        if "test" in found:  # those of the training part come from the nets of a cross-validation
            own = ("test", "test_balanced_acc", "validation", "validation_balanced_acc")
            self.write_suspects({key: value for key, value in found.items() if key not in own})

    def write_suspects(self, found: Mapping[str, Any]) -> None:
        write_json(self.path / "suspects.json", found)

    # How

    @cached_property
    def _metrics(self) -> MetricsLog:
        return MetricsLog(self.path)


def default_paths(dataset: str, recipe: str, seed: int) -> Iterator[Path]:
    """runs/DATE-TIME-DATA-RECIPE-sSEED, then the same with -2, -3 and so on at its end."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{dataset}-{recipe}-s{seed}"
    return (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in range(1, 1000))


def _first_free(paths: Iterable[Path]) -> Path:
    """The first path that does not exist; made at once, so that two processes never take the same one."""
    for path in paths:
        with storage_errors(path), suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise UsageError("--out", "all default names of this second are taken", "--out DIR")
