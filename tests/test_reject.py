"""Images without an answer: what --reject leaves out, what it costs in coverage, and the score for foreign images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

import daybreak
from daybreak import cli
from daybreak.core import metrics
from daybreak.core.errors import UsageError
from daybreak.data import Dataset
from daybreak.evaluation.evaluate import evaluate
from daybreak.report import run_charts, sections
from daybreak.runs.directory import RunDirectory


def logits_of(confidences: list[float]) -> np.ndarray:
    """Two classes; the first has this probability."""
    p = np.array(confidences)
    return np.stack([np.log(p), np.log(1 - p)], 1)


def test_answers_by_hand() -> None:
    logits, labels = logits_of([0.9, 0.8, 0.8, 0.6]), np.array([0, 0, 1, 1])
    found = [(round(a.confidence, 6), a.coverage, a.accuracy) for a in metrics.answered(logits, labels)]
    assert found == [(0.9, 0.25, 1.0), (0.8, 0.75, pytest.approx(2 / 3)), (0.6, 1.0, 0.5)]  # equally sure, together
    assert sections._rejecting(metrics.answered(logits, labels), 0.7) == {
        "below": 0.7, "coverage": 0.75, "accuracy": pytest.approx(2 / 3),
    }  # fmt: skip
    assert sections._rejecting(metrics.answered(logits, labels), 0.95) == {
        "below": 0.95, "coverage": 0.0, "accuracy": None,
    }  # fmt: skip


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 4))
def test_coverage_and_accuracy_are_those_of_the_images_that_are_answered(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.integers(-2, 3, (n, classes)).astype(np.float32), rng.integers(classes, size=n)
    confidence, right = metrics.softmax(logits).max(1), logits.argmax(1) == labels
    found = metrics.answered(logits, labels)
    assert [a.confidence for a in found] == sorted(set(confidence.tolist()), reverse=True)
    for a in found:
        answered = confidence >= a.confidence
        assert (a.coverage, a.accuracy) == (answered.mean(), pytest.approx(right[answered].mean()))
    assert found[-1].coverage == 1.0
    assert found[-1].accuracy == pytest.approx(metrics.accuracy(logits, labels))


def test_energy_is_that_of_torch() -> None:
    logits = 30 * torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(metrics.energy(logits.numpy()), -logits.logsumexp(1).numpy())
    assert np.isfinite(metrics.energy(np.full((1, 3), 1e4, np.float32))).all()


def photographs() -> np.ndarray:
    """Parts of two photographs as grey images of 8 x 8 px: nothing that a net for digits has seen. (N, 8, 8, 1)"""
    parts = []
    for photograph in load_sample_images().images:
        grey = np.asarray(Image.fromarray(photograph).convert("L").resize((160, 104), Image.Resampling.BOX))
        parts += [grey[y : y + 8, x : x + 8] for y in range(0, 104, 8) for x in range(0, 160, 8)]
    return np.stack(parts)[..., None]


def test_energy_tells_digits_from_photographs(digits_run: RunDirectory, digits: Dataset) -> None:
    classifier = digits_run.classifier("cpu")
    known, foreign = (metrics.energy(classifier.logits(x)) for x in (digits.test.images_NHWC, photographs()))
    is_foreign = np.repeat([0, 1], [len(known), len(foreign)])
    assert roc_auc_score(is_foreign, np.concatenate([known, foreign])) > 0.8


@pytest.fixture
def files(tmp_path: Path, digits: Dataset) -> list[str]:
    paths = [tmp_path / f"{n}.png" for n in range(30)]
    for image_HWC, path in zip(digits.test.images_NHWC, paths, strict=False):
        Image.fromarray(image_HWC[:, :, 0]).save(path)
    return [str(path) for path in paths]


def test_predict_calls_images_unknown(
    digits_run: RunDirectory, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = daybreak.load(digits_run.path)
    plain, strict = run.predict(*files), run.predict(*files, reject=0.9)
    assert [row["unknown"] for row in strict] == [row["top"][0]["probability"] < 0.9 for row in plain]
    assert 0 < sum(row["unknown"] for row in strict) < 30
    assert not any("unknown" in row for row in plain)
    assert [row["energy"] for row in plain] == [row["energy"] for row in strict]
    assert cli._run(["predict", str(digits_run.path), *files, "--reject", "0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [("  unknown: " in line) for line in lines] == [row["unknown"] for row in strict]
    assert cli._run(["predict", str(digits_run.path), *files, "--reject", "0.9", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["unknown"] for row in rows] == [row["unknown"] for row in strict]


@pytest.mark.parametrize("reject", [-0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(digits_run: RunDirectory, files: list[str], reject: float) -> None:
    with pytest.raises(UsageError, match=r"--reject .*: not a probability"):
        daybreak.load(digits_run.path).predict(*files, reject=reject)


def test_the_page_says_what_rejecting_would_do(digits_run: RunDirectory) -> None:
    evaluation = evaluate(digits_run, tta="none")
    rows = sections.calibration(evaluation)["rejecting"]
    confidence = metrics.softmax(evaluation.logits_NK).max(1)
    assert [row["coverage"] for row in rows] == [(confidence >= row["below"]).mean() for row in rows]
    chart = run_charts.coverage(metrics.answered(evaluation.logits_NK, evaluation.labels_N))
    assert chart.lines[0].points[-1] == (100.0, pytest.approx(100 * evaluation.accuracy))
