"""A run becomes a bundle: exported, compared with the run over its test part, described, and only then there."""

import hashlib
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from daybreak.core.errors import UsageError, one_line
from daybreak.core.files import to_json, whole_folder
from daybreak.core.metrics import softmax
from daybreak.core.timing import BATCHES, Effort, percentiles_ms, time_in_turns
from daybreak.data import Dataset
from daybreak.data.sources import NAMES
from daybreak.evaluation.evaluate import stored_predictions
from daybreak.evaluation.evaluation import Evaluation
from daybreak.export.answering import AnsweringNet, answering
from daybreak.export.bundle import FACTS, FORMAT, MODEL, Bundle, Data, Facts
from daybreak.export.card import card_of
from daybreak.export.formats import read_pt2, write_onnx, write_pt2
from daybreak.export.hub import HubBundle, library_of, weights_of, without_path, write_hub
from daybreak.export.parity import Answer, Parity, in_blocks
from daybreak.export.quantize import CALIBRATION, quantize
from daybreak.models.pretrained import WEIGHTS
from daybreak.runs.card import card_values
from daybreak.runs.classifier import images_a_forward
from daybreak.runs.datasets import opened_how, run_dataset
from daybreak.runs.directory import RunDirectory

Form = Literal["onnx", "pt2", "safetensors", "hub"]
FORMS: tuple[Form, ...] = ("onnx", "pt2", "safetensors", "hub")
FILES: dict[Form, str] = {"onnx": MODEL, "pt2": "model.pt2", "safetensors": WEIGHTS, "hub": WEIGHTS}
CARD = "README.md"
EFFORT = Effort(timings=50, seconds=0.0, longest=1.0, turn=0.05)


def export(
    run: RunDirectory,
    form: Form = "onnx",
    *,
    int8: bool = False,
    out: Path | str | None = None,
    data: str | Path | None = None,
    license: str = "unknown",
) -> Path:
    """Write a bundle: the model with its preprocessing inside, a model card, `predict.py` and `parity.json`.

    Args:
        form: hub is the folder layout of the Hugging Face hub, see `export.hub`.
        int8: eight-bit convolutions (ONNX only), with ranges from training images.
        out: its folder, which must not exist; by default `bundle-FORM` in the run.
        data: where the run's data is now, if it has moved.
        license: of the weights, for the model card: an identifier such as `apache-2.0`.

    Raises:
        UsageError: the form is unknown, `out` exists, a package is missing, or the net cannot be written as a graph.
        RunError: what was exported answers otherwise than the run; nothing is left.
        DataError: the run's data is gone or has changed: then nothing can be compared.
    """
    if form not in FORMS:
        raise UsageError(f"--format {form}", "not a format", f"one of {', '.join(FORMS)}")
    if int8 and form != "onnx":
        raise UsageError("--int8", f"only ONNX has it, not {form}", "--format onnx")
    folder = Path(out) if out else run.path / f"bundle-{form}{'-int8' if int8 else ''}"
    if folder.exists():
        raise UsageError(f"--out {folder}", "exists", "another folder, or remove it first")
    dataset = run_dataset(run, data)
    predictions = stored_predictions(run, data=data)
    evaluation = Evaluation(predictions, run.card.classes, "none", dataset.title, dataset.notes)
    with whole_folder(folder) as temporary:
        _write(run, dataset, evaluation, form, int8, license, temporary)
    return folder


def _write(
    run: RunDirectory, dataset: Dataset, evaluation: Evaluation, form: Form, int8: bool, license: str, folder: Path
) -> None:
    classifier = run.classifier("cpu")
    expected_NK = softmax(replace(classifier, dtype=torch.float32).logits(dataset.test.images_NHWC))
    facts = _facts(run, dataset, form, int8, _results(run, evaluation))
    answer = _write_model(run, classifier.net, dataset, facts, folder)
    labels_N = np.asarray(dataset.test.labels_N)
    found_NK = in_blocks(answer, dataset.test.images_NHWC, images_a_forward(facts.side, classifier.device))
    parity = Parity.of(expected_NK, found_NK, labels_N)
    parity.check(run.path, int8)
    speed = _latencies(Bundle(folder, facts), dataset.test.images_NHWC) if form == "onnx" else {}
    _write_text(folder / "parity.json", to_json(parity.as_json() | speed))
    library = library_of(folder) if form == "hub" else "onnx" if form == "onnx" else "pytorch"
    _write_text(folder / CARD, card_of(facts, run.card, evaluation, parity, license, library))
    if form == "onnx":
        _write_text(folder / "predict.py", _packaged("export/templates/predict.py"))
        _write_text(folder / "image.py", _packaged("data/image.py"))
    files = [path for path in sorted(folder.iterdir()) if form != "hub" or path.name != CARD]  # it is edited there
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    _write_text(folder / FACTS, to_json(facts.model_copy(update={"files": sums}).model_dump(by_alias=True)))


def graph_alone(run: RunDirectory, dataset: Dataset, folder: Path) -> Bundle:
    """A run's ONNX graph in a folder that exists, neither compared nor described: to be asked beside the run, with as
    many threads as PyTorch has.

    Raises:
        UsageError: a package is missing, or the net cannot be written as a graph.
    """
    facts = _facts(run, dataset, "onnx", int8=False, results={})
    _write_model(run, run.classifier("cpu").net, dataset, facts, folder)
    return Bundle(folder, facts, torch.get_num_threads())


def graph_in_eight_bits(graph: Bundle, dataset: Dataset, folder: Path) -> Bundle:
    """A graph of the run's `graph_alone` in eight bits, in another folder that exists; errors as there."""
    quantize(graph.path / MODEL, folder / MODEL, _calibration(dataset))
    return Bundle(folder, graph.facts.model_copy(update={"int8": True}), graph.threads)


def _facts(run: RunDirectory, dataset: Dataset, form: Form, int8: bool, results: dict[str, Any]) -> Facts:
    return Facts(
        format=FORMAT, name=one_line(f"{run.recipe.name} on {dataset.title}"), form=form, int8=int8,
        classes=tuple(one_line(name) for name in run.card.classes),  # folders may be called what is no text
        decode={"size": run.card.decode.size, "channels": run.card.decode.channels},
        side=max(run.card.size, run.card.decode.size), data=_data_of(run, dataset), results=results, files={},
    )  # fmt: skip


def _write_model(run: RunDirectory, net: nn.Module, dataset: Dataset, facts: Facts, folder: Path) -> Answer:
    """The model in its file, and that file's way to probabilities."""
    path, channels = folder / FILES[facts.form], run.card.decode.channels  # type: ignore[index]
    if facts.form == "safetensors":
        path.write_bytes(weights_of(net))
        card = replace(run.card, net=without_path(run.card.net))
        _write_text(folder / "model.json", to_json(card_values(card)))
        return partial(_by_torch, AnsweringNet(_as_saved(run, path), run.card).eval())
    if facts.form == "hub":
        write_hub(net, run.card, facts.classes, folder)
        return HubBundle(folder, facts, run.net_factory).probabilities
    graph = answering(net, run.card)
    if facts.form == "pt2":
        write_pt2(graph, channels, path)
        return partial(_by_torch, read_pt2(path))
    said = facts.model_dump(include={"name", "classes", "decode", "int8", "format"})
    if facts.int8:
        whole = folder / "float.onnx"
        write_onnx(graph, channels, said, whole)
        quantize(whole, path, _calibration(dataset))
        whole.unlink()
    else:
        write_onnx(graph, channels, said, path)
    return Bundle(folder, facts).probabilities


def _as_saved(run: RunDirectory, path: Path) -> nn.Module:
    """The run's net with the weights of the file."""
    return RunDirectory(path.parent, run.net_factory).net_from(path)


def _by_torch(net: nn.Module, images_NHWC: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = net(torch.from_numpy(np.array(images_NHWC)))[0].numpy()
    return found


def _calibration(dataset: Dataset) -> np.ndarray:
    """Training images, evenly spread."""
    count = len(dataset.train.labels_N)
    return np.asarray(dataset.train.images_NHWC[np.linspace(0, count - 1, min(count, CALIBRATION)).astype(np.int64)])


def _latencies(bundle: Bundle, images_NHWC: np.ndarray) -> dict[str, Any]:
    """Milliseconds of a call with one image and with 64: the median of at least five."""
    found = {}
    for batch in BATCHES:
        images = np.asarray(images_NHWC[:batch])
        (seconds,) = time_in_turns({"call": partial(bundle.at_once, images)}, EFFORT).values()
        found[str(len(images))] = percentiles_ms(seconds)["p50_ms"]
    return {"milliseconds": found}


def _data_of(run: RunDirectory, dataset: Dataset) -> Data:
    name = dataset.request.data if dataset.request.data in NAMES else None
    return Data(title=dataset.title, name=name, fingerprint=dataset.fingerprint, how=opened_how(run))


def _results(run: RunDirectory, evaluation: Evaluation) -> dict[str, Any]:
    """Of the run as it was, with its precision; `test_acc_tta` takes several views, which a bundle does not."""
    keys = ("test_acc", "test_acc_tta", "epochs", "steps", "train_seconds", "seed")
    kept = {"recipe": run.recipe.name} | {key: run.summary.get(key) for key in keys}
    return kept | {"ece": evaluation.ece, "macro_f1": evaluation.macro_f1, "balanced_acc": evaluation.balanced_accuracy}


def _packaged(name: str) -> str:
    return files("daybreak").joinpath(name).read_text(encoding="utf-8")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
