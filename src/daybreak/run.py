"""A trained net as Python sees it: `Run`, a thin face over a run directory."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from daybreak import notebook
from daybreak.core.config import Tta
from daybreak.core.events import OnEvent
from daybreak.core.extras import needing
from daybreak.evaluation.evaluate import evaluate, image_index
from daybreak.evaluation.evaluation import Evaluation, Mistake
from daybreak.evaluation.predict import predict
from daybreak.explain.cam import Method
from daybreak.explain.gallery import draw_files, draw_mistakes, maps_for
from daybreak.explain.maps import ClassMap, MapOptions
from daybreak.export.write import Form, export
from daybreak.notebook import Gallery
from daybreak.report import figures, run_charts
from daybreak.report.report import write_report
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory
from daybreak.suspects import find_suspects


class Run:
    """A trained net and all that is known about its training; a thin face over its directory.

    Attributes:
        path: the run directory.
        directory: its files, typed.

    All methods raise RunError where a file of the run that they need is missing or damaged, DataError where its images
    cannot be had any more, and UsageError for an argument that makes no sense.
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
        """One row per epoch: lr, losses in nats, accuracies in [0, 1], seconds; ready for `pandas.DataFrame`."""
        return self.directory.metrics("epoch")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.directory.card.classes

    def evaluate(self, data: str | Path | None = None, tta: Tta | None = None) -> Evaluation:
        """Evaluate the net on its test images, or on other data with the same classes."""
        return evaluate(self.directory, data=data, tta=tta)

    def confusion(self) -> np.ndarray:
        """Counts (K, K) without test-time augmentation: rows true, columns predicted."""
        return self.evaluate(tta="none").confusion

    def mistakes(self, n: int = 25, between: Sequence[str] = ()) -> list[Mistake]:
        """The most confident wrong answers, without test-time augmentation; all of them, or those in which one of two
        classes was taken for the other."""
        return self.evaluate(tta="none").mistakes(n, between)

    def cam(
        self, index: int, layer: str, target: str = "predicted", method: Method = "grad-cam", against: str | None = None
    ) -> np.ndarray:
        """The map (h, w), float32, of a test image at a stage.

        Args:
            target: the class to explain, by name, or "predicted" or "true".
            method: see `daybreak.explain.cam`.
            against: show evidence for `target` and against this class.

        Raises:
            UsageError: there is no such image, stage or class; what there is is listed.
        """
        _, (found,) = self._maps(index, MapOptions([layer], method, target, against))
        return found.values_HW

    def gallery(self, n: int = 12) -> Gallery:
        """The most confident wrong answers as pictures, for a notebook."""
        return notebook.of_mistakes(self.mistakes(n), run_dataset(self.directory).test.images_NHWC)

    def maps(
        self, index: int, target: str = "predicted", method: Method = "grad-cam", against: str | None = None
    ) -> Gallery:
        """A test image and its maps at every stage as pictures, for a notebook; arguments as for `cam`."""
        image, maps = self._maps(index, MapOptions(None, method, target, against))
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
        between: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Draw maps as PNG files in `figures/maps`; one row per map with "file", "layer", "method", "class" and "path".

        Args:
            images: files to explain for the predicted class; without any, the `n` most confident mistakes are
                explained for the predicted and for the true class, and rows have the test image's "index" too.
            layers: stages by name; all by default.
            method: see `daybreak.explain.cam`.
            target: the class to explain instead, by name, or "predicted" or "true".
            against: show evidence for the target and against this class.
            data: where the run's data is now, if it has moved.
            between: only mistakes in which one of these two classes was taken for the other.
        """
        options = MapOptions(layers, method, target, against)
        if images:
            return draw_files(self.directory, images, options)
        return draw_mistakes(self.directory, n, options, data, between=between)

    def suspects(
        self,
        folds: int | None = None,
        budget: float = 60.0,
        seed: int = 0,
        data: str | Path | None = None,
        on_event: OnEvent = lambda event: None,
        workers: int = 1,
    ) -> dict[str, Any]:
        """Images whose labels are probably wrong, the most suspicious first: "test", "validation" where there is that
        part, and "train" with `folds`, for which as many nets are trained for `budget` seconds each, by `workers`.
        They stand in the next report."""
        return find_suspects(self.directory, folds, budget, seed, data, on_event, workers)

    def predict(
        self, *images: str | Path, top: int = 3, reject: float | None = None, tta: Tta = "none"
    ) -> list[dict[str, Any]]:
        """Class probabilities of image files or of the images in folders.

        Args:
            reject: the probability below which the likeliest class is no answer: the row says "unknown".

        Raises:
            UsageError: `reject` is no probability.
            DataError: a file is missing or not an image.
        """
        return list(predict(self.directory, images, top=top, reject=reject, tta=tta))

    def export(
        self,
        format: Form = "onnx",
        *,
        int8: bool = False,
        out: str | Path | None = None,
        data: str | Path | None = None,
        license: str = "unknown",
    ) -> Path:
        """Write a bundle: the model with its preprocessing, a model card, and proof that it answers as this run does.

        Args:
            format: onnx, pt2 (`torch.export`), safetensors (weights alone), or hub: the folder layout of the Hugging
                Face hub, which timm reads if the net is timm's.
            int8: eight-bit convolutions, for ONNX.
            out: the folder to make; `bundle-FORMAT` in the run by default.
            data: where the run's data is now, if it has moved.
            license: of the weights, for the model card.

        Raises:
            UsageError: the folder exists, a package is missing, or the net cannot be written as a graph.
            RunError: the exported model answers otherwise than the run; nothing is left.
        """
        return export(self.directory, format, int8=int8, out=out, data=data, license=license)

    def report(self, data: str | Path | None = None) -> Path:
        """Write the report; returns its path. `data`: where the run's data is now, if it has moved."""
        return write_report(self.directory, data=data)

    def serve(self, port: int = 8000, on_ready: Callable[[str], None] = print, **options: Any) -> None:
        """A web page and a service until a signal comes: send an image, get its classes and maps.

        Args:
            port: 0 for any that is free.
            on_ready: called with the address once it can be visited.
            options: of `daybreak.serve.options.ServeOptions`, such as `host` and `reject`.

        Raises:
            UsageError: an option is not valid, the address cannot be had, the extra `serve` is not installed, or this
                is a notebook.
        """
        with needing("serve", "serve"):
            from daybreak.serve.of_run import ServedRun
            from daybreak.serve.options import ServeOptions
            from daybreak.serve.server import serve
        serve(ServedRun(self.directory), ServeOptions(port, **options), on_ready)

    def _maps(self, index: int, options: MapOptions) -> tuple[np.ndarray, list[ClassMap]]:
        """A test image and its maps."""
        test, classifier = run_dataset(self.directory).test, self.directory.classifier()
        at = image_index(index, len(test.labels_N))
        image, true_N = np.asarray(test.images_NHWC[[at]]), np.asarray(test.labels_N[[at]])
        return image[0], maps_for(classifier, image, options, [options.target or "predicted"], true_N)

    def _repr_html_(self) -> str:
        """In a notebook: the line of `repr`, the curves and the confusion matrix."""
        evaluation = self.evaluate(tta="none")
        drawn = [figures.confusion(evaluation.confusion, evaluation.classes)]
        drawn[:0] = [figures.draw(run_charts.accuracy_and_loss(self.history))] if self.history else []
        return f"<pre>{escape(repr(self))}</pre>" + "".join(figures.svg(figure) for figure in drawn)

    def __repr__(self) -> str:
        s = self.summary
        unfinished = "interrupted" if s.interrupted else "not finite"
        accuracy = unfinished if s.test_acc is None else f"test_acc {s.test_acc:.4f}"
        val_acc = self.directory.summary.get("val_acc")  # older runs lack it
        accuracy += "" if val_acc is None else f", val_acc {val_acc:.4f}"
        return f"<Run {self.path}: {s.recipe} on {s.dataset}, {accuracy}, {s.train_seconds:.1f} s>"
