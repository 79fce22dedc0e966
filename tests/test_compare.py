"""Runs side by side: a test with known answers, and a page of two real runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

import daybreak as db
from daybreak import cli
from daybreak.core.config import override
from daybreak.core.errors import UsageError
from daybreak.core.options import TrainOptions
from daybreak.data import open_dataset
from daybreak.evaluation.compare import compare, differences, mcnemar
from daybreak.recipes import RECIPES
from daybreak.runs.directory import RunDirectory
from daybreak.training.train import train


def right(n: int, *, both: int, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.zeros(n, bool), np.zeros(n, bool)
    first[: both + a], second[:both], second[both + a : both + a + b] = True, True, True
    return first, second


def test_mcnemar_by_hand() -> None:
    """Ten against two: p = 2 · P(X <= 2) for X of twelve fair coins; the images both get right do not matter."""
    found = mcnemar(*right(100, both=50, a=10, b=2))
    assert (found.only_first, found.only_second) == (10, 2)
    assert found.p_value == pytest.approx(2 * binom.cdf(2, 12, 0.5))
    assert mcnemar(*right(1000, both=900, a=10, b=2)).p_value == found.p_value
    assert mcnemar(*right(100, both=50, a=7, b=7)).p_value == 1
    assert mcnemar(*right(100, both=50, a=0, b=0)).p_value == 1


def test_two_that_are_equally_good_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(0)
    values = [mcnemar(rng.random(2000) < 0.9, rng.random(2000) < 0.9).p_value for _ in range(300)]
    assert np.mean(np.array(values) < 0.05) < 0.08


def test_differences_are_dotted_keys() -> None:
    a = {"seed": 0, "recipe": {"epochs": 5, "schedule": {"max_lr": 0.1}}, "command": ["x"]}
    b = {"seed": 0, "recipe": {"epochs": 6, "schedule": {"max_lr": 0.1, "warmup": 0.2}}, "command": ["y"]}
    assert differences([a, b]) == [("recipe.epochs", ("5", "6")), ("recipe.schedule.warmup", ("–", "0.2"))]
    assert differences([a, a]) == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, RunDirectory]:
    folder, digits = tmp_path_factory.mktemp("runs"), open_dataset("digits")
    quick = override(RECIPES["small"], {"model.width": 0.1, "epochs": 1, "min_steps": 0})
    longer = override(quick, {"epochs": 4})
    return train(quick, digits, folder / "quick"), train(longer, digits, folder / "longer", TrainOptions(seed=1))


def test_two_runs(runs: tuple[RunDirectory, RunDirectory]) -> None:
    found = compare(runs)
    first, second = (e.logits_NK.argmax(1) == e.labels_N for e in found.evaluations)
    (pair,) = found.pairs
    assert pair.only_other == tuple(np.flatnonzero(second & ~first))
    assert len(pair.only_other) == pair.test.only_second > pair.test.only_first == len(pair.only_first)
    assert pair.test.p_value < 0.01
    assert {"recipe.epochs", "seed"} <= {key for key, _ in found.differences}


def test_the_page_and_the_command_line(
    runs: tuple[RunDirectory, RunDirectory], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "sub" / "compare.html"
    with pytest.raises(SystemExit) as done:
        cli.main(["compare", *(str(run.path) for run in runs), "--out", str(page), "--json"])
    assert done.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    text = page.read_text()
    assert f"Only longer is correct: {shown['pairs'][0]['only_second_right']}" in text
    assert "longer is significantly better." in text
    assert "recipe.epochs" in text
    assert text.count('class="line r1"') == 2
    assert shown["report"] == str(page)
    assert [row["label"] for row in shown["runs"]] == ["quick", "longer"]


def test_runs_on_other_images_have_no_pairs(runs: tuple[RunDirectory, RunDirectory], tmp_path: Path) -> None:
    quick = override(RECIPES["small"], {"model.width": 0.1, "epochs": 1, "min_steps": 0})
    elsewhere = train(quick, open_dataset("digits", split_seed=3), tmp_path / "quick")
    found = db.compare(runs[0].path, elsewhere.path, out=tmp_path / "page.html")
    assert found.pairs == ()
    assert found.labels == ("quick (1)", "quick (2)")
    assert "not evaluated on the same test images" in (tmp_path / "page.html").read_text()


def test_one_run_is_no_comparison(runs: tuple[RunDirectory, RunDirectory]) -> None:
    with pytest.raises(UsageError, match="RUN RUN"):
        compare(runs[:1])
