"""Progress over steps and over wall-clock time."""

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daybreak import api
from daybreak.core.clock import parse_seconds
from daybreak.core.config import override
from daybreak.core.errors import UsageError
from daybreak.recipes import RECIPES
from daybreak.training import loop
from daybreak.training.expectation import about_budget
from daybreak.training.progress import BoundedHorizon, StepHorizon, TimeHorizon
from daybreak.training.session import Session

TINY = {"model.width": 0.1, "precision": "float32"}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "seconds"), [("300", 300), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("1h30m", 5400), ("0.5s", 0.5)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--budget") == seconds


@pytest.mark.parametrize("text", ["", "m", "5 m", "-5m", "5d", "5m!", "1e3"])
def test_what_is_not_a_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"^--budget {re.escape(text)}: not a duration"):
        parse_seconds(text, "--budget")


def test_progress_is_elapsed_time_over_the_budget() -> None:
    clock = Clock()
    horizon = TimeHorizon(10.0, clock)
    found = []
    for now in (0.0, 2.5, 5.0, 10.0, 12.0):
        clock.now = now
        found.append(horizon.progress(0))
    assert found == [0.0, 0.25, 0.5, 1.0, 1.0]


@given(st.floats(0.01, 3.0), st.floats(0.01, 3.0), st.floats(0.0, 1.0))
def test_a_run_ends_within_half_a_step_of_its_budget(before: float, after: float, slows_down_at: float) -> None:
    """Whatever the machine does in mid-run: steps of one length first, of another later."""
    clock, budget, step = Clock(), 20.0, 0
    horizon = TimeHorizon(budget, clock)
    while not horizon.is_done(step):
        clock.now += before if clock.now < slows_down_at * budget else after
        step += 1
        assert horizon.is_done(step) == horizon.is_done(step)  # asking twice changes nothing
    changed_late = abs(clock.now - budget) <= max(before, after) / 2 + 1e-9
    assert changed_late or (slows_down_at * budget > budget - 2 * max(before, after))


def test_a_step_far_longer_than_those_before_it_is_a_gap() -> None:
    clock, left_off, found = Clock(), [], []

    def leave_off(seconds: float) -> None:
        left_off.append(seconds)
        clock.now -= seconds

    horizon = TimeHorizon(10.0, clock, leave_off)
    for step in range(1, 9):
        clock.now += 300.0 if step == 5 else 1.0
        assert not horizon.is_done(step)
        found.append(horizon.progress(step))
    assert left_off == [299.0]
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])


def test_a_machine_that_has_slowed_down_for_good_does_not_stand_still() -> None:
    """As by swapping: the first slow step could be a pause, from the second on they count."""
    clock, left_off, step = Clock(), [], 0

    def leave_off(seconds: float) -> None:
        left_off.append(seconds)
        clock.now -= seconds

    horizon = TimeHorizon(300.0, clock, leave_off)
    while not horizon.is_done(step):
        step += 1
        clock.now += 0.6 if step <= 50 else 7.0
    assert left_off == pytest.approx([6.4])
    assert clock.now == pytest.approx(300.0, abs=3.5)


def test_a_pause_between_two_steps_is_seen_by_no_schedule() -> None:
    """While a checkpoint is written, say: the next step asks for its rate first."""
    clock = Clock()

    def leave_off(seconds: float) -> None:
        clock.now -= seconds

    horizon = TimeHorizon(100.0, clock, leave_off)
    for step in range(1, 6):
        clock.now += 1.0
        assert not horizon.is_done(step)
    clock.now += 3600.0
    assert horizon.progress(5) == pytest.approx(0.06)  # a step's worth of it stays
    clock.now += 1.0
    assert not horizon.is_done(6)
    assert horizon.progress(6) == pytest.approx(0.07)


@pytest.mark.parametrize("slow", [[1.0, 1.0, 9.9], [60.0], [0.1, 0.1, 0.1, 4.9], [1.0, 300.0]])
def test_a_slow_step_is_no_gap(slow: list[float]) -> None:
    """Not far longer, the first, not long, or with too few before it to know."""
    clock, left_off = Clock(), []
    horizon = TimeHorizon(1000.0, clock, left_off.append)
    for step, seconds in enumerate(slow, 1):
        clock.now += seconds
        horizon.is_done(step)
    assert left_off == []


def test_a_stopped_process_does_not_jump_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by SIGSTOP in the middle of a step. Time is made of steps: 0.1 s each, and once a minute."""
    clock, plain, seen = Clock(), loop.train_step, []

    def step(session: Session, *batch: torch.Tensor) -> torch.Tensor:
        clock.now += 60.0 if session.step == 30 else 0.1
        seen.append(session.progress)
        return plain(session, *batch)

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr("daybreak.core.clock.time", SimpleNamespace(perf_counter=lambda: clock.now))
    run = api.train("digits", budget=10.0, settings=TINY, out=tmp_path / "run", report=False)
    summary = run.directory.summary
    assert summary["steps"] == pytest.approx(100, abs=2)
    assert summary["train_seconds"] == pytest.approx(10.0, abs=0.2)
    assert summary["paused_seconds"] == pytest.approx(59.9)
    assert "training stood still for 60 s, which the budget leaves off" in summary["notes"]
    rows = run.directory.metrics("step")
    for key, most in (("progress", 0.03), ("train_seconds", 0.3)):
        assert max(b[key] - a[key] for a, b in pairwise(rows)) < most


def test_time_spent_before_the_first_step_counts() -> None:
    clock = Clock()
    clock.now = 4.0
    horizon = TimeHorizon(10.0, clock)
    assert horizon.progress(0) == 0.4
    assert not horizon.is_done(0)


def test_a_budget_that_is_over_before_the_first_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="over before the first step"):
        api.train("digits", budget=1e-6, settings=TINY, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("burden", [1.0, 2.5, 0.4])
def test_a_budget_holds_on_a_machine_that_changes_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, burden: float
) -> None:
    """The cycle closes on time, with fewer or more steps. Time is made of steps here: 0.1 s each, and `burden` times
    that from the middle on."""
    clock, plain, budget = Clock(), loop.train_step, 10.0

    def step(session: Session, *batch: torch.Tensor) -> torch.Tensor:
        clock.now += 0.1 * (burden if session.progress > 0.5 else 1.0)
        return plain(session, *batch)

    monkeypatch.setattr("daybreak.core.clock.time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(loop, "train_step", step)
    run = api.train("digits", budget=budget, settings=TINY, out=tmp_path / "run", report=False)
    assert run.summary.train_seconds == pytest.approx(budget, rel=0.03)
    assert run.summary.steps == pytest.approx(50 + 50 / burden, abs=2)
    rows = run.directory.metrics("step")
    assert rows[-1]["lr"] < 0.05 * rows[0]["lr"]  # linear to zero: the cycle closed
    assert rows[-1]["progress"] == pytest.approx(1.0, abs=0.03)
    assert [row["progress"] for row in rows] == sorted(row["progress"] for row in rows)
    assert (run.directory.options.budget, run.summary.budget) == (budget, budget)
    assert [row["epoch"] for row in run.history][-1] == pytest.approx(run.summary.epochs, abs=0.01)


def test_a_budget_for_few_epochs_says_what_to_expect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is made of steps of a second each: of 22 an epoch 45 fit into 45 s, which are two epochs."""
    clock, plain = Clock(), loop.train_step

    def step(session: Session, *batch: torch.Tensor) -> torch.Tensor:
        clock.now += 1.0
        return plain(session, *batch)

    monkeypatch.setattr("daybreak.core.clock.time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr("daybreak.training.step_log.SECONDS_BETWEEN_READINGS", 0.0)
    monkeypatch.setattr(loop, "train_step", step)
    events: list[Any] = []
    for budget, name in ((45.0, "short"), (200.0, "long")):
        api.train(
            "digits", recipe="small", budget=budget, settings=TINY, out=tmp_path / name, report=False,
            on_event=events.append,
        )  # fmt: skip
    (note,) = [event["why"] for event in events if event["event"] == "note"]
    assert note == (
        "about 2.0 epochs fit into 45 s here: expect much less than a finished net; for 5: --budget 111s or "
        "--set model.width=0.05"
    )


def test_a_recipe_for_few_epochs_has_what_it_needs() -> None:
    """A step a second, after four that were none: 96 in all, of 50 an epoch."""
    steps = (
        {"step": 2, "stepping_seconds": 6.0, "progress": 0.06},
        {"step": 10, "stepping_seconds": 14.0, "progress": 0.14},
    )
    one_size = {"resolution": [{"until": 1.0, "scale": 1.0}]}
    short, long = (override(RECIPES[name], one_size) for name in ("sprint-2", "sprint"))
    assert about_budget(100.0, *steps, 48, short, 32) is None
    assert "about 1.9 epochs fit into 1 min 40 s" in str(about_budget(100.0, *steps, 50, long, 32))
    assert "for 5: --budget 5m or --size 32" in str(about_budget(100.0, *steps, 50, long, 64))


def test_images_that_grow_make_steps_slower() -> None:
    """From half of the cycle on a step takes four times as long: 36 steps and 12.5 in the 86 seconds to come."""
    steps = (
        {"step": 2, "stepping_seconds": 6.0, "progress": 0.06},
        {"step": 10, "stepping_seconds": 14.0, "progress": 0.14},
    )
    growing = {"resolution": [{"until": 0.5, "scale": 0.5}, {"until": 1.0, "scale": 1.0}]}
    told = about_budget(100.0, *steps, 10, override(RECIPES["sprint"], growing | {"epochs": 10}), 32)
    assert told is None
    told = about_budget(100.0, *steps, 20, override(RECIPES["sprint"], growing), 32)
    assert "about 2.9 epochs fit" in str(told)  # (10 + 36 + 12.5) / 20


def test_a_cycle_that_is_expected_to_fit_keeps_to_the_budget_where_it_does_not() -> None:
    now = [0.0]
    steps = StepHorizon(SimpleNamespace(epochs=2, steps=10))  # type: ignore[arg-type]
    horizon, other = (BoundedHorizon(steps, TimeHorizon(100.0, lambda: now[0])) for _ in range(2))
    assert (horizon.epochs, horizon.steps) == (2, 10)
    now[0] = 20.0
    assert [horizon.progress(step) for step in (1, 2, 5)] == [0.2, 0.2, 0.5]
    assert horizon.work(5) == 0.5
    assert [horizon.is_done(step) for step in (8, 9, 10)] == [False, False, True]
    now[0] = 100.0
    assert other.is_done(3)
    assert other.progress(3) == 1.0
