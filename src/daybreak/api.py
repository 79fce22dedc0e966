"""What `import daybreak` offers. The command line calls these functions and nothing else."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from daybreak import choice, notebook
from daybreak.clock import Stopwatch
from daybreak.comparison import Comparison
from daybreak.comparison import compare as compare_runs
from daybreak.config import Device, Recipe, Tta
from daybreak.data import Dataset, open_dataset
from daybreak.device import pick_device, synchronizer
from daybreak.errors import UsageError
from daybreak.evaluate import Evaluation, Mistake, evaluate, image_index, run_dataset
from daybreak.explain import ClassMap, Question
from daybreak.gallery import answers, draw_files, draw_mistakes
from daybreak.inspection import Inspection
from daybreak.inspection import inspect as inspect_net
from daybreak.label_errors import find_suspects
from daybreak.maps import Method
from daybreak.notebook import Gallery
from daybreak.predict import predict
from daybreak.recipes import get_recipe
from daybreak.report import figures, write_comparison, write_report
from daybreak.run import RunDirectory, default_path
from daybreak.session import OnEvent
from daybreak.training import train as train_run

__all__ = ["Run", "compare", "inspect", "load", "open_dataset", "samples", "train"]


class Run:
    """A trained net and all that is known about its training; a thin face over its directory.

    Attributes:
        path: the run directory.
        directory: its files, typed.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.path = directory.path

    @property
    def summary(self) -> SimpleNamespace:
        """The keys of summary.json as attributes, e.g. `run.summary.test_acc`."""
        return SimpleNamespace(**self.directory.summary)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch: lr, losses in nats, accuracies in [0, 1], seconds; fit for `pandas.DataFrame`."""
        return self.directory.metrics("epoch")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.directory.card.classes

    def evaluate(self, data: str | Path | None = None, tta: Tta | None = None) -> Evaluation:
        """Judge the net on its test images, or on other data with the same classes."""
        return evaluate(self.directory, data=data, tta=tta)

    def confusion(self) -> np.ndarray:
        """Counts (K, K) without test-time augmentation: rows true, columns predicted."""
        return self.evaluate(tta="none").confusion

    def mistakes(self, n: int = 25) -> list[Mistake]:
        """The most confident wrong answers, without test-time augmentation."""
        return self.evaluate(tta="none").mistakes(n)

    def cam(
        self, index: int, layer: str, target: str = "predicted", method: Method = "grad-cam", against: str | None = None
    ) -> np.ndarray:
        """The map (h, w), float32, of a test image at a stage.

        Args:
            target: the class to explain, by name, or "predicted" or "true".
            method: see `daybreak.maps`.
            against: explain `target` against this class: what speaks for the one and not for the other.

        Raises:
            UsageError: there is no such image, stage or class; what there is is listed.
        """
        _, (found,) = self._maps(index, Question([layer], method, target, against))
        return found.values_HW

    def gallery(self, n: int = 12) -> Gallery:
        """The most confident wrong answers as pictures, for a notebook."""
        return notebook.of_mistakes(self.mistakes(n), run_dataset(self.directory).test.images_NHWC)

    def maps(
        self, index: int, target: str = "predicted", method: Method = "grad-cam", against: str | None = None
    ) -> Gallery:
        """A test image and its maps at every stage as pictures, for a notebook; arguments as for `cam`."""
        image, maps = self._maps(index, Question(None, method, target, against))
        return notebook.of_maps(maps, image, self.classes)

    def explain(
        self,
        images: Sequence[str | Path] = (),
        layers: Sequence[str] | None = None,
        n: int = 10,
        data: str | Path | None = None,
        method: Method = "grad-cam",
        target: str | None = None,
        against: str | None = None,
    ) -> list[dict[str, Any]]:
        """Draw maps as PNG below `figures/maps`; a row a map with "file", "layer", "method", "class" and "path".

        Args:
            images: files to explain for the predicted class; without any, the `n` most confident mistakes are
                explained for the predicted and for the true class, and rows have the test image's "index" too.
            layers: stages by name; all by default.
            method: see `daybreak.maps`.
            target: the class to explain instead, by name, or "predicted" or "true".
            against: explain it against this class: what speaks for the one and not for the other.
            data: where the run's data is now, if it has moved.
        """
        question = Question(layers, method, target, against)
        if images:
            return draw_files(self.directory, images, question)
        return draw_mistakes(self.directory, n, question, data)

    def suspects(
        self,
        folds: int | None = None,
        budget: float = 60.0,
        seed: int = 0,
        data: str | Path | None = None,
        on_event: OnEvent = lambda event: None,
    ) -> dict[str, Any]:
        """Images whose labels are probably wrong, the most suspicious first: "test", and "train" with `folds`, for
        which as many nets are trained for `budget` seconds each. They stand in the next report."""
        return find_suspects(self.directory, folds, budget, seed, data, on_event)

    def predict(self, *images: str | Path, top: int = 3, tta: Tta = "none") -> list[dict[str, Any]]:
        """Class probabilities of image files or of the images in folders."""
        return predict(self.directory, images, top=top, tta=tta)

    def report(self, data: str | Path | None = None) -> Path:
        """Write the report; returns its path. `data`: where the run's data is now, if it has moved."""
        return write_report(self.directory, data=data)

    def _maps(self, index: int, question: Question) -> tuple[np.ndarray, list[ClassMap]]:
        """A test image and the answers to a question about it."""
        test, classifier = run_dataset(self.directory).test, self.directory.classifier()
        at = image_index(index, len(test.labels_N))
        image, true_N = np.asarray(test.images_NHWC[[at]]), np.asarray(test.labels_N[[at]])
        return image[0], answers(classifier, image, question, [question.target or "predicted"], true_N)

    def _repr_html_(self) -> str:
        """In a notebook: the line of `repr`, the curves and the confusion matrix."""
        judged = self.evaluate(tta="none")
        drawn = [figures.confusion(judged.confusion, judged.classes)]
        drawn[:0] = [figures.curves(self.history)] if self.history else []
        return f"<pre>{escape(repr(self))}</pre>" + "".join(figures.svg(figure) for figure in drawn)

    def __repr__(self) -> str:
        s = self.summary
        accuracy = "interrupted" if s.test_acc is None else f"test_acc {s.test_acc:.4f}"
        return f"<Run {self.path}: {s.recipe} on {s.dataset}, {accuracy}, {s.train_seconds:.1f} s>"


def train(
    data: str | Path,
    *,
    recipe: str | Recipe | None = None,
    epochs: int | None = None,
    budget: float | None = None,
    target: float | None = None,
    dawn_rule: bool = False,
    seed: int = 0,
    device: Device = "auto",
    size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    split_seed: int = 0,
    report: bool = True,
    on_event: OnEvent = lambda event: None,
) -> Run:
    """Train a classifier and write its run directory, report included.

    Args:
        data: a name (`cifar10`, `digits`, …) or a path: folder of class folders, archive, .npz.
        recipe: name or object. By default what fits the budget or promises the target; with neither `sprint`, or
            `small` below 10,000 training images.
        epochs: instead of the recipe's.
        budget: seconds of training, instead of epochs: one cycle over wall-clock time.
        target: test accuracy in [0, 1] that the run should reach; the summary says whether it did.
        dawn_rule: stop at the first epoch whose test accuracy reaches the target: DAWNBench's rule, under which the
            test images choose when to stop.
        size: side in px at which images are decoded and seen by the net; see `open_dataset`.
        settings: dotted recipe keys to override, e.g. `{"schedule.max_lr": 0.1}`.
        out: the run directory; by default a new one below `runs/`.
        split_seed: of the stratified split, for data without a test part.
        on_event: called with progress; see docs/run-directory.md for the rows.

    Raises:
        DaybreakError: with the exit code the command line would return; nothing that existed is changed.
    """
    check_options(epochs, budget, target, dawn_rule, min(seed, split_seed))
    dataset = open_dataset(data, size=size, split_seed=split_seed)
    name = recipe.name if isinstance(recipe, Recipe) else recipe
    options = {"recipe": name, "epochs": epochs, "budget": budget, "target": target, "dawn_rule": dawn_rule}
    options |= {"size": size, "device": device, "split_seed": split_seed or None, "seed": seed}
    watch = Stopwatch(synchronizer(pick_device(device)))
    if recipe is None and epochs is None and (budget or target):
        if budget:
            recipe, why = choice.for_budget(budget, dataset, seed, pick_device(device), watch)
        else:
            recipe, why = choice.for_target(target or 0.0, dataset)
        on_event({"event": "choice", "recipe": recipe.name, "why": why})
    chosen = choice.named_or_default(recipe, dataset, epochs, settings)
    directory = train_run(
        chosen,
        dataset,
        Path(out) if out else default_path(dataset.name, chosen.name, seed),
        seed=seed,
        device=device,
        budget=budget,
        target=target,
        dawn_rule=dawn_rule,
        watch=watch,
        command=command_line(data, options, settings),
        on_event=on_event,
    )
    if report and not directory.summary["interrupted"]:
        write_report(directory, device=device)
    return Run(directory)


def command_line(data: str | Path, options: Mapping[str, Any], settings: Mapping[str, Any] | None) -> list[str]:
    """The command that repeats a training, with what differs from the defaults. (A recipe of one's own has only its
    name in it; config.json holds it whole.)"""
    words = ["daybreak", "train", str(data)]
    for option, value in options.items():
        if value is not None and value is not False and value != "auto":
            words += [f"--{option.replace('_', '-')}", *([] if value is True else [str(value)])]
    pairs = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in (settings or {}).items()]
    return [*words, *(text for pair in pairs for text in ("--set", pair))]


def check_options(epochs: int | None, budget: float | None, target: float | None, dawn_rule: bool, seed: int) -> None:
    """Refuse what cannot be meant before anything is opened."""
    if budget is not None and not 0 < budget < float("inf"):
        raise UsageError(f"--budget {budget}", "not a length of time", "a time such as 90s, 5m or 1h")
    if budget is not None and epochs is not None:
        raise UsageError("--budget and --epochs", "both say how long to train", "one of them")
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"--target {target}", "not an accuracy", "a number such as 0.94")
    if dawn_rule and target is None:
        raise UsageError("--dawn-rule", "there is no target to stop at", "--target 0.94 with it")
    if seed < 0:
        raise UsageError(f"seed {seed}", "negative", "0 or more")


def load(path: str | Path) -> Run:
    """A run made earlier, here or on another machine."""
    return Run(RunDirectory.open(path))


def samples(data: str | Path | Dataset, recipe: str | Recipe | None = None, n: int = 12, seed: int = 0) -> Gallery:
    """Training images as pictures, for a notebook: a few of every class, or with a recipe as its augmentation shows
    them to the net."""
    dataset = data if isinstance(data, Dataset) else open_dataset(data)
    if recipe is None:
        return notebook.of_dataset(dataset)
    return notebook.of_augmented(dataset, get_recipe(recipe) if isinstance(recipe, str) else recipe, n, seed)


def compare(*runs: "Run | str | Path", out: str | Path | None = None) -> Comparison:
    """Two runs or more side by side: what differs, what each gets right alone, and whether that is chance.

    Args:
        out: also write the comparison there, as one HTML file.
    """
    found = compare_runs([run.directory if isinstance(run, Run) else RunDirectory.open(run) for run in runs])
    if out is not None:
        write_comparison(found, out)
    return found


def inspect(what: str | Path, image_size: int | None = None) -> Inspection:
    """The layer table of a recipe's net or of a run's."""
    if (Path(what) / "config.json").is_file():
        card = RunDirectory.open(what).card
        return inspect_net(card.net.name, card.net, len(card.classes), card.decode.channels, image_size or card.size)
    return inspect_net(str(what), get_recipe(str(what)).model, image_size=image_size or 32)
