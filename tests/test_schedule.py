"""One cycle: literal values, and equality with torch over a whole run."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daybreak.core.config import OneCycle, Stage
from daybreak.recipes import RECIPES
from daybreak.training.schedule import learning_rate, momentum, scale_at

LINEAR = OneCycle(max_lr=0.4, initial_lr=0.1, final_lr=0.0, warmup=0.25, momentum=(0.85, 0.95))


@pytest.mark.parametrize(
    ("progress", "lr", "beta"),
    [(0, 0.1, 0.95), (0.125, 0.25, 0.90), (0.25, 0.4, 0.85), (0.625, 0.2, 0.90), (1, 0.0, 0.95)],
)
def test_two_phases_linear(progress: float, lr: float, beta: float) -> None:
    assert learning_rate(LINEAR, progress) == pytest.approx(lr, abs=1e-15)
    assert momentum(LINEAR, progress) == pytest.approx(beta, abs=1e-15)


@pytest.mark.parametrize(
    ("progress", "lr"), [(0, 0.1), (0.1, 0.25), (0.2, 0.4), (0.3, 0.25), (0.4, 0.1), (0.7, 0.05), (1, 0.0)]
)
def test_three_phases_annihilate(progress: float, lr: float) -> None:
    cycle = OneCycle(max_lr=0.4, initial_lr=0.1, final_lr=0.0, warmup=0.2, phases=3)
    assert learning_rate(cycle, progress) == pytest.approx(lr, abs=1e-15)


def test_cosine_halfway_and_quarter() -> None:
    cycle = LINEAR.model_copy(update={"shape": "cosine"})
    assert learning_rate(cycle, 0.625) == pytest.approx(0.2)
    assert learning_rate(cycle, 0.4375) == pytest.approx(0.4 * (1 + 2**-0.5) / 2)


@pytest.mark.parametrize(
    ("progress", "lr"), [(0, 0.4), (0.49, 0.4), (0.5, 0.04), (0.74, 0.04), (0.75, 0.004), (0.99, 0.004)]
)
def test_step_decay_is_a_corner_of_the_shape(progress: float, lr: float) -> None:
    cycle = OneCycle(max_lr=0.4, initial_lr=0.4, final_lr=0.0, warmup=0.0, shape="steps")
    assert learning_rate(cycle, progress) == pytest.approx(lr)


@pytest.mark.parametrize(("progress", "lr"), [(0, 0.4), (0.3, 0.4), (0.5, 0.4), (0.75, 0.2), (1, 0.0)])
def test_flat_then_cosine_is_a_corner_of_the_shape(progress: float, lr: float) -> None:
    cycle = OneCycle(max_lr=0.4, initial_lr=0.4, final_lr=0.0, warmup=0.0, hold=0.5, shape="cosine")
    assert learning_rate(cycle, progress) == pytest.approx(lr)


@pytest.mark.parametrize(
    ("progress", "lr", "beta"),
    [(0, 0.1, 0.95), (0.05, 0.25, 0.90), (0.1, 0.4, 0.85), (0.5, 0.4, 0.85), (0.8, 0.4, 0.85), (0.9, 0.2, 0.90)],
)
def test_warm_up_stable_decay_holds_the_peak(progress: float, lr: float, beta: float) -> None:
    cycle = LINEAR.model_copy(update={"warmup": 0.1, "hold": 0.7})
    assert learning_rate(cycle, progress) == pytest.approx(lr)
    assert momentum(cycle, progress) == pytest.approx(beta)


@pytest.mark.parametrize("wrong", [{"warmup": 0.5, "hold": 0.6}, {"phases": 3, "hold": 0.1}, {"hold": -0.1}])
def test_a_peak_is_held_inside_training_and_with_two_phases(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="hold"):
        OneCycle.model_validate({"max_lr": 1, "initial_lr": 0, "final_lr": 0, "warmup": 0.2} | wrong)


@pytest.mark.parametrize("extra", [{"phases": 3, "warmup": 0.3}, {"momentum": (0.85, 0.95)}])
def test_step_decay_has_two_phases_and_no_momentum(extra: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="shape steps"):
        OneCycle.model_validate({"max_lr": 1, "initial_lr": 1, "final_lr": 0, "warmup": 0, "shape": "steps"} | extra)


def test_the_assignments_setting_peaks_at_epoch_five_and_ends_where_it_began() -> None:
    cycle = RECIPES["page"].schedule
    per_epoch = [learning_rate(cycle, epoch / 24) for epoch in range(25)]
    assert per_epoch.index(max(per_epoch)) == 5
    assert per_epoch[5] == cycle.max_lr
    assert per_epoch[24] == pytest.approx(per_epoch[0])


def test_without_momentum_the_optimizers_own_stays() -> None:
    assert momentum(LINEAR.model_copy(update={"momentum": None}), 0.3) is None


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("phases", [2, 3])
@pytest.mark.parametrize(("steps", "share"), [(100, 0.3), (97, 0.2), (2352, 5 / 24)])
def test_equals_torch_over_a_whole_run(shape: str, phases: int, steps: int, share: float) -> None:
    theirs = _torch_run(shape, phases, steps, share)
    # torch ends its phases one step early (two in the middle of three) and its last step is step n - 1
    warmup = (share * steps - 1) / (steps - 1)
    cycle = OneCycle(
        max_lr=0.4, initial_lr=0.4 / 25, final_lr=0.4 / 25 / 1e4, warmup=warmup, phases=phases, shape=shape,
        momentum=(0.85, 0.95),
    )  # fmt: skip
    ours = [(learning_rate(cycle, k / (steps - 1)), momentum(cycle, k / (steps - 1))) for k in range(steps)]
    assert torch.tensor(ours, dtype=torch.float64).sub(theirs).abs().max() < 1e-12


def _torch_run(shape: str, phases: int, steps: int, share: float) -> torch.Tensor:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.4, total_steps=steps, pct_start=share, anneal_strategy=shape[:3] if shape == "cosine" else shape,
        three_phase=phases == 3,
    )  # fmt: skip
    rows = []
    for _ in range(steps):
        rows.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if len(rows) < steps:
            scheduler.step()
    return torch.tensor(rows, dtype=torch.float64)


@given(st.floats(0, 1), st.floats(0.01, 0.5), st.sampled_from([0.0, 0.5, 3]), st.sampled_from(["linear", "cosine"]))
def test_stays_between_its_corners(progress: float, warmup: float, middle: float, shape: str) -> None:
    """The middle: nothing, a held peak, or a third phase."""
    kind = {"phases": 3} if middle == 3 else {"hold": middle}
    cycle = OneCycle(max_lr=1, initial_lr=0.1, final_lr=0.01, warmup=warmup, shape=shape, **kind)
    assert 0.01 - 1e-12 <= learning_rate(cycle, progress) <= 1 + 1e-12


def test_resolution_stages() -> None:
    stages = (Stage(until=0.3, scale=0.625), Stage(until=0.6, scale=0.75), Stage(until=1.0, scale=1.0))
    asked = [0.0, 0.299, 0.3, 0.59, 0.6, 0.99, 1.0]
    assert [scale_at(stages, p) for p in asked] == [0.625, 0.625, 0.75, 0.75, 1.0, 1.0, 1.0]
