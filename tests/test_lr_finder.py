"""The range test: known curves, an honest "no clear answer", and nothing left behind."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resuming import recipe
from safetensors.torch import save

import daybreak as db
from daybreak import cli
from daybreak.core.config import override
from daybreak.core.errors import UsageError
from daybreak.core.lr_curve import RULES, LrFindResult, RangeTest
from daybreak.data import Dataset
from daybreak.recipes import RECIPES
from daybreak.training import recipe_choice
from daybreak.training.extensions import Extensions
from daybreak.training.lr_finder import lr_find, range_test
from daybreak.training.session import Session, prepare
from daybreak.training.state import capture

LR = np.geomspace(1e-5, 1.0, 200)
CPU = torch.device("cpu")


def curve(loss: np.ndarray, noise: float = 0.0) -> RangeTest:
    raw = loss + np.random.default_rng(0).normal(0, noise, len(loss))
    return RangeTest(LR[: len(loss)], raw, diverged=True)


def textbook(falls_at: float = 1e-3, rises_at: float = 0.3) -> np.ndarray:
    """A loss of 2.3 that falls to 0.8 around one rate, steepest there, and rises around another."""
    x = np.log10(LR)
    fall = 1.5 / (1 + np.exp(-4 * (x - np.log10(falls_at))))
    return np.asarray(2.3 - fall + 6 / (1 + np.exp(-8 * (x - np.log10(rises_at)))))


@pytest.mark.parametrize("falls_at", [1e-4, 1e-3, 1e-2])
def test_the_steepest_fall_is_found_where_it_is(falls_at: float) -> None:
    test = curve(textbook(falls_at), noise=0.01)
    assert test.suggestions["steepest"] == pytest.approx(falls_at, rel=0.3)
    assert test.doubt is None


def test_the_rules_on_a_known_curve() -> None:
    test = curve(textbook())
    found = test.suggestions
    lowest = LR[textbook().argmin()]
    assert found["minimum_10"] == pytest.approx(lowest / 10, rel=0.1)
    assert found["steepest"] < found["slide"] <= lowest
    assert LR[0] < found["valley"] < lowest
    # it has risen by 0.075, a twentieth of its fall of 1.5, where 6 / (1 + exp(-8 (x - lg 0.3))) = 0.075
    assert found["edge"] == pytest.approx(0.3 * 10 ** (-np.log(79) / 8), rel=0.15)
    down = np.flatnonzero(np.diff(test.loss_S) < 0)
    assert found["valley"] == pytest.approx(LR[(down[0] + down[-1]) // 2], rel=0.1)


def test_of_a_loss_that_only_rises_every_rule_says_the_lowest_rate() -> None:
    test = curve(np.linspace(1.0, 3.0, 200))
    assert test.suggestions == pytest.approx(dict.fromkeys(test.suggestions, LR[0]) | {"minimum_10": LR[0] / 10})


def test_smoothing_moves_nothing() -> None:
    """The negative control is a running mean, which finds the steepest fall too high."""
    test = curve(textbook())
    trailing = np.convolve(test.raw_S, np.ones(20) / 20)[: len(LR)]
    trailing[:20] = test.raw_S[:20]
    steepest_trailing = LR[np.gradient(trailing, np.log(LR))[20 : test.lowest].argmin() + 20]
    assert test.suggestions["steepest"] == pytest.approx(1e-3, rel=0.1)
    assert steepest_trailing > 1.5e-3


@pytest.mark.parametrize(
    ("loss", "noise", "diverged", "reason"),
    [
        (np.full(200, 2.3), 0.001, False, "hardly falls"),
        (textbook()[:120], 1.3, True, "too noisy"),
        (textbook()[:130], 0.0, False, "still falls at the highest rate"),
        (textbook()[150:], 0.0, True, "rises from the lowest rate on"),
        (textbook(rises_at=1e3) + 0.02 * np.linspace(0, 1, 200), 0.0, False, "does not rise up to the highest rate"),
    ],
)
def test_no_clear_answer_has_its_reason(loss: np.ndarray, noise: float, diverged: bool, reason: str) -> None:
    raw = loss + np.random.default_rng(0).normal(0, noise, len(loss))
    test = RangeTest(LR[: len(loss)], raw, diverged)
    assert test.doubt is not None
    assert reason in test.doubt
    assert all(rate > 0 for rate in test.suggestions.values())  # there is something to draw all the same


def test_seeds_that_disagree_are_no_clear_answer() -> None:
    near, far = curve(textbook(1e-3)), curve(textbook(1e-3))
    assert LrFindResult("r", "d", (near, far)).doubt is None
    other = RangeTest(LR * 1000, textbook(), diverged=True)
    doubt = LrFindResult("r", "d", (near, other)).doubt
    assert doubt == "seeds suggest rates 1000 times apart"


# -- on nets -----------------------------------------------------------------------------------------------------------


def state_of(session: Session) -> str:
    rates = [group["lr"] for o in session.optimizer.optimizers for group in o.param_groups]
    orders = session.loader.indices(3).tolist()
    tensors = save(capture(session).tensors)
    return sha256(tensors + repr((session.step, rates, orders, sorted(session.sizes.items()))).encode()).hexdigest()


@pytest.mark.parametrize("name", ["page", "sprint"])
def test_the_state_is_the_same_before_and_after(name: str, digits: Dataset) -> None:
    """In the middle of a run, with momenta, a moving average and running statistics; also when the test diverges."""
    session = prepare(recipe(name), digits, 0, CPU)
    from daybreak.training.step import train_step

    for step in range(3):
        session.optimizer.set_progress(session.progress)
        train_step(session, *session.loader.batch(step, session.progress))
        session.step += 1
        session.sizes[8] += 1
    before = state_of(session)
    found = range_test(session, 1e-6, 100.0, 40)
    assert state_of(session) == before
    assert len(found.lr_S) > 10
    train_step(session, *session.loader.batch(3, 0.0))
    assert state_of(session) != before  # the negative control


def test_a_rate_is_found_and_works(tmp_path: Path) -> None:
    found = db.find_lr("digits", "small", seeds=2, steps=60, device="cpu", settings={"model.width": 0.2}, out=tmp_path)
    assert found.doubt is None
    assert found.lr_min == found.lr_max / 10
    settings = {"schedule.max_lr": found.lr_max, "schedule.initial_lr": found.lr_max, "model.width": 0.2}
    options = {"epochs": 6, "settings": settings, "device": "cpu", "report": False}
    run = db.train("digits", recipe="small", out=tmp_path / "run", **options)
    assert run.summary.test_acc > 0.95
    stored = json.loads((tmp_path / "lr-find.json").read_text())
    assert stored == json.loads(json.dumps(found.as_json()))
    assert (tmp_path / "lr-find.svg").read_text().count("valley") == 1


def test_training_finds_its_rate(tmp_path: Path) -> None:
    """The found rate stands in the run's configuration, and the cycle keeps its shape."""
    events: list[dict[str, object]] = []
    options = {"recipe": "small", "epochs": 2, "device": "cpu", "report": False, "settings": {"model.width": 0.2}}
    run = db.train("digits", lr="auto", out=tmp_path / "a", on_event=events.append, **options)
    schedule, usual = run.directory.recipe.schedule, RECIPES["small"].schedule
    (why,) = [event["why"] for event in events if event["event"] == "choice"]
    assert why == f"range test: one cycle up to {schedule.max_lr:.3g}"
    assert schedule.initial_lr / schedule.max_lr == pytest.approx(usual.initial_lr / usual.max_lr)
    assert schedule.max_lr != usual.max_lr
    assert "--lr auto" in " ".join(run.directory.config["command"])
    fixed = db.train("digits", lr=0.05, out=tmp_path / "b", **options)
    assert fixed.directory.recipe.schedule.max_lr == 0.05


def test_all_groups_climb_in_proportion(digits: Dataset) -> None:
    session = prepare(recipe("sprint"), digits, 0, CPU)
    session.optimizer.set_rate(session.recipe.schedule.max_lr / 2)
    for group in (g for o in session.optimizer.optimizers for g in o.param_groups):
        assert group["lr"] == pytest.approx(group["peak"] / 2)


@pytest.mark.parametrize(
    ("options", "match"), [({"lowest": 1.0, "highest": 0.1}, "no range"), ({"steps": 5}, "too few")]
)
def test_what_cannot_be_meant_is_refused(options: dict[str, float], match: str, digits: Dataset) -> None:
    with pytest.raises(UsageError, match=match):
        lr_find(override(RECIPES["small"], {"model.width": 0.1}), digits, **options)  # type: ignore[arg-type]


def test_the_command_prints_the_contracts_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--recipe", "small", "--seeds", "1", "--steps", "40", "--set", "model.width=0.1", "--json"]
    assert cli._run(["lr-find", "digits", *options, "--out", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"lr", "loss", "suggestions", "lr_min", "lr_max", "clear", "reason"} <= told.keys()
    assert {"steepest", "valley", "minimum_10", "slide", "edge"} == told["suggestions"].keys()
    assert told["lr_max"] == told["suggestions"][told["rule"]]
    assert (tmp_path / "lr-find.png").read_bytes().startswith(b"\x89PNG")


# -- the rules and their limits, by hand -------------------------------------------------------------------------------


@pytest.fixture
def unsmoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daybreak.core.lr_curve.SMOOTHING", 0.01)


@pytest.mark.usefixtures("unsmoothed")
def test_beyond_the_lowest_loss_nothing_is_steep() -> None:
    """It only rises, and less and less."""
    test = RangeTest(np.exp(np.arange(4.0)), np.array([1.0, 3.0, 4.0, 4.5]), diverged=True)
    assert RULES["steepest"][0](test) == 0


@pytest.mark.usefixtures("unsmoothed")
def test_the_rules_by_hand() -> None:
    """Rates a factor of e apart, so that slopes are differences: -1, -2.5, -4, -2.05, -0.2, -0.175, 1.2, 2.45."""
    loss = np.array([10, 9, 5, 1, 0.9, 0.6, 0.55, 3.0])
    test = RangeTest(np.exp(np.arange(8.0)), loss, diverged=True)
    found = {name: rule(test) for name, (rule, _) in RULES.items()}
    assert found == {"steepest": 2, "valley": 3, "minimum_10": 6, "slide": 3, "edge": 6}


@pytest.mark.usefixtures("unsmoothed")
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([2, 1, 0.5, 0.51], "still falls at the highest rate"),
        ([2, 1, 0.5, 0.51, 0.52], "does not rise up to the highest rate"),
        ([2, 1, *[0.5] * 300, 0.51], "does not rise up to the highest rate"),
        ([2, 1, 0.5, 0.51, 0.9], None),
        ([2, 1.8, 1.8, 10], None),
        ([1.0, 1.01, 1.04], "hardly falls"),
        ([1.0, 1.02, 1.06], "rises from the lowest rate on"),
        ([2, 1.94, 2.5], "hardly falls"),
    ],
)
def test_the_limits_of_a_clear_answer(raw: list[float], reason: str | None) -> None:
    doubt = RangeTest(np.geomspace(1e-6, 10, len(raw)), np.array(raw, float), diverged=False).doubt
    assert doubt is None if reason is None else reason in str(doubt)


def test_the_smoothing_is_over_three_steps_and_noise_counts_threefold() -> None:
    impulse = np.zeros(101)
    impulse[50] = 1.0
    assert RangeTest(LR[:101], impulse, True).loss_S[50] == pytest.approx(1 / (3 * np.sqrt(2 * np.pi)), rel=0.01)
    noise = (-1.0) ** np.arange(200)  # of a fall of 1.5
    clear, noisy = (RangeTest(LR, textbook() + size * noise, True).doubt for size in (0.43, 0.6))
    assert clear is None
    assert "too noisy" in str(noisy)


def test_a_range_test_sees_what_training_will(digits: Dataset) -> None:
    """Somebody's own augmentation too."""
    seen = []

    def noted(images: torch.Tensor, labels: torch.Tensor, _: torch.Generator) -> Any:
        seen.append(len(images))
        return images, labels

    recipe = override(RECIPES["small"], {"model.width": 0.1, "precision": "float32"})
    extensions = Extensions(augment=noted)
    lr_find(recipe, digits, seeds=[0], steps=12, highest=0.1, device="cpu", extensions=extensions)
    assert seen == 12 * [recipe.batch_size]
    recipe_choice._time_steps(prepare(recipe, digits, 0, CPU, extensions=extensions), 0.0, lambda: None)
    assert len(seen) == 13


@pytest.mark.parametrize(("factor", "doubt"), [(29.5, None), (30.6, "seeds suggest rates 31 times apart")])
def test_seeds_may_differ_by_a_factor_of_thirty(factor: float, doubt: str | None) -> None:
    other = RangeTest(LR * factor, textbook(), diverged=True)
    assert LrFindResult("r", "d", (curve(textbook()), other)).doubt == doubt


def test_the_record_has_the_first_seeds_curve_and_whether_it_is_clear() -> None:
    first, second = curve(textbook(1e-3)), curve(textbook(1e-2))
    told = LrFindResult("r", "d", (first, second)).as_json()
    assert (told["seeds"], told["clear"], told["reason"]) == (2, True, None)
    assert told["loss"] == first.loss_S.tolist() != second.loss_S.tolist()
    flat = LrFindResult("r", "d", (RangeTest(LR, np.full(200, 2.3), False),)).as_json()
    assert (flat["clear"], flat["reason"]) == (False, "the loss hardly falls at any rate")
