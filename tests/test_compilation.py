"""The compiled step gives the eager step's losses, leaves nothing behind and compiles nothing on the clock."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from daybreak.core.config import Compile, Recipe, override
from daybreak.data import Dataset
from daybreak.recipes import RECIPES
from daybreak.training.compilation import compile_net, is_worth_compiling, phases
from daybreak.training.progress import TimeHorizon
from daybreak.training.session import Session, prepare
from daybreak.training.step import train_step

CPU = torch.device("cpu")
SETTINGS = {
    "model.width": 0.1,
    "batch_size": 64,
    "epochs": 1,
    "min_steps": 0,
    "precision": "float32",
    "optimizer.whiten_bias_until": 0.5,
    "resolution": [{"until": 0.4, "scale": 0.75}, {"until": 1.0, "scale": 1.0}],
}


@pytest.fixture(autouse=True)
def nothing_compiled_yet() -> None:
    torch._dynamo.reset()


def recipe(**settings: object) -> Recipe:
    return override(RECIPES["sprint"], SETTINGS | {key.replace("__", "."): value for key, value in settings.items()})


def losses(session: Session) -> list[float]:
    found = []
    for step in range(session.loader.steps):
        progress = session.horizon.progress(step)
        session.optimizer.set_progress(progress)
        found.append(train_step(session, *session.loader.batch(step, progress)).item())
    return found


def test_every_size_and_every_freezing_is_a_phase(digits: Dataset) -> None:
    assert phases(prepare(recipe(), digits, 0, CPU)) == pytest.approx([0.2, 0.45, 0.75])


@pytest.mark.slow
@pytest.mark.parametrize("augment", [{}, {"augment__cutout": 8, "augment__rotation": 5}])
def test_compiled_training_is_eager_training_and_compiles_before_the_clock(
    digits: Dataset, augment: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The compiler sees plain modules; the native norm rounds otherwise, and some steps later that is a difference.
    monkeypatch.setattr("daybreak.models.layers.can_be_one", lambda *_: False)
    expected = losses(prepare(recipe(**augment), digits, 0, CPU))
    session = prepare(recipe(**augment), digits, 0, CPU)
    before = {name: value.clone() for name, value in session.net.state_dict().items()}
    on_the_clock = session.watch.seconds("train")
    assert compile_net(session, backend="aot_eager") == {}
    assert session.forward is not session.net
    assert session.watch.seconds("train") == on_the_clock
    assert session.watch.seconds("compile") > 0
    assert all(torch.equal(before[name], value) for name, value in session.net.state_dict().items())
    assert session.net.get_parameter("whiten.bias").requires_grad
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert losses(session) == pytest.approx(expected, abs=1e-4)


def test_what_was_not_foreseen_would_be_noticed(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    session = prepare(recipe(), digits, 0, CPU)
    monkeypatch.setattr("daybreak.training.compilation.phases", lambda _: [0.2])
    compile_net(session, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True), pytest.raises(torch._dynamo.exc.RecompileError):
        losses(session)


@pytest.mark.parametrize(
    ("device", "horizon", "wanted", "compiles"),
    [
        ("cuda", SimpleNamespace(steps=49_999), "auto", False),
        ("cuda", SimpleNamespace(steps=50_000), "auto", True),
        ("cuda", TimeHorizon(179.0, lambda: 0.0), "auto", False),
        ("cuda", TimeHorizon(180.0, lambda: 0.0), "auto", True),
        ("cuda", SimpleNamespace(steps=1), "always", True),
        ("cuda", SimpleNamespace(steps=10**6), "never", False),
        ("cpu", SimpleNamespace(steps=10**6), "auto", False),
        ("cpu", SimpleNamespace(steps=10**6), "always", False),
    ],
)
def test_a_net_is_compiled_where_the_run_wins_it_back(
    device: str, horizon: Any, wanted: Compile, compiles: bool
) -> None:
    session: Any = SimpleNamespace(device=torch.device(device), horizon=horizon)
    assert is_worth_compiling(session, wanted) == compiles


def test_without_a_compiler_training_stays_eager_and_says_so(digits: Dataset) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C compiler\nanywhere")

    session = prepare(recipe(), digits, 0, CPU)
    before = {name: value.clone() for name, value in session.net.state_dict().items()}
    told = compile_net(session, backend=broken)  # type: ignore[arg-type]
    assert "no C compiler" in told["why"]
    assert session.forward is session.net
    assert all(torch.equal(before[name], value) for name, value in session.net.state_dict().items())
    assert losses(session) == losses(prepare(recipe(), digits, 0, CPU))
