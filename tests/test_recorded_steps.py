"""What surrounds recorded steps, on any machine; the recording itself is tested where there is a GPU (test_cuda.py)."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from daybreak.core.config import OneCycle, override
from daybreak.data import Dataset
from daybreak.recipes import RECIPES
from daybreak.training import graphs, lr_finder, state
from daybreak.training.callbacks import Callback
from daybreak.training.graphs import can_be_recorded, make_ready
from daybreak.training.optim import MuonOptimizer, ScheduledOptimizer, muon_update
from daybreak.training.session import Session, prepare
from daybreak.training.step import phase_of, train_step

CPU = torch.device("cpu")
SETTINGS = {
    "model.width": 0.1, "batch_size": 64, "epochs": 1, "min_steps": 0, "precision": "float32", "convolution": "direct",
    "ema": 0.5,
}  # fmt: skip


def session_of(digits: Dataset, **settings: object) -> Session:
    return prepare(override(RECIPES["sprint"], SETTINGS | settings), digits, 0, CPU)


@dataclass
class Recording:
    """Takes a step by adding one to every weight."""

    session: Session
    taken: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def replay(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        self.taken.append((images_BCHW, labels_B))
        with torch.no_grad():
            for p in self.session.net.parameters():
                p.add_(1.0)
        return torch.tensor(7.0)


def test_a_phase_that_is_recorded_is_replayed_and_averaged(digits: Dataset) -> None:
    session = session_of(digits)
    assert session.ema is not None
    batch = session.batch(0.0)
    recording = Recording(session)
    session.graphs[phase_of(session, *batch)] = recording
    train_step(session, *batch)  # the average begins as the first weights
    before = session.ema.module.get_parameter("head.linear.weight").clone()
    assert train_step(session, *batch).item() == 7.0
    assert len(recording.taken) == 2
    assert torch.allclose(session.ema.module.get_parameter("head.linear.weight"), before + 0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda images, labels: (images, torch.nn.functional.one_hot(labels, 10).float()),  # shares of classes
        lambda images, labels: (images[:32], labels[:32]),
        lambda images, labels: (images.repeat(1, 1, 2, 2), labels),
    ],
    ids=["shares of classes", "fewer images", "larger images"],
)
def test_a_batch_of_another_form_is_not_replayed(digits: Dataset, change) -> None:  # type: ignore[no-untyped-def]
    session = session_of(digits)
    images, labels = session.batch(0.0)
    recording = Recording(session)
    session.graphs[phase_of(session, images, labels)] = recording
    assert train_step(session, *change(images, labels)).item() != 7.0
    assert recording.taken == []


def test_a_frozen_parameter_is_another_phase(digits: Dataset) -> None:
    session = session_of(digits)
    batch = session.batch(0.0)
    before = phase_of(session, *batch)
    session.net.get_parameter("whiten.bias").requires_grad_(False)
    assert phase_of(session, *batch) != before


def test_somebodys_own_python_is_not_recorded(digits: Dataset) -> None:
    session = session_of(digits)
    assert can_be_recorded(session)
    for own in ({"loss": lambda logits, labels: logits.sum()}, {"net": torch.nn.Flatten}, {"callbacks": (Callback(),)}):
        session.extensions = replace(session.extensions, loss=None, net=None, callbacks=())
        session.extensions = replace(session.extensions, **own)
        assert not can_be_recorded(session)
    session.extensions = replace(session.extensions, callbacks=(), augment=lambda images, labels, _: (images, labels))
    assert can_be_recorded(session)  # augmentation is outside


def test_what_cannot_be_recorded_is_trained_kernel_by_kernel(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing compiled is left where compiling is what failed."""

    def failing(session: Session) -> None:
        session.graphs[phase_of(session, *session.batch(0.0))] = Recording(session)
        raise RuntimeError("capture failed\nfor a reason")

    session = session_of(digits)
    muon = session.optimizer.optimizers[0]
    assert isinstance(muon, MuonOptimizer)
    muon.update, session.forward, session.device = torch.compile(muon_update), torch.nn.Identity(), torch.device("cuda")
    monkeypatch.setattr(graphs, "record_steps", failing)
    told = make_ready(session, "never")
    assert told is not None
    assert "kernel by kernel (RuntimeError: capture failed\\nfor a reason)" in told["why"]
    assert session.graphs == {}
    assert session.forward is session.net
    assert muon.update is muon_update


def test_on_a_cpu_nothing_is_made_ready(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "record_steps", lambda _: pytest.fail("recorded on a CPU"))
    assert make_ready(session_of(digits), "always") is None


def test_muon_is_compiled_only_where_its_momentum_stands_still() -> None:
    bank = torch.nn.Parameter(torch.ones(4, 3, 3, 3))
    for momentum, is_compiled in ((None, True), ((0.5, 0.6), False)):
        muon = MuonOptimizer([bank], 0.6, 3, torch.float32)
        cycle = OneCycle(max_lr=0.1, initial_lr=0.1, final_lr=0.0, warmup=0.0, momentum=momentum)
        optimizer = ScheduledOptimizer([muon], cycle)
        optimizer.compile("eager")
        assert (muon.update is not muon_update) == is_compiled
        optimizer.compile(None)
        assert muon.update is muon_update


def test_a_state_is_restored_where_it_lies(digits: Dataset) -> None:
    """A recording knows tensors by their address."""
    session = session_of(digits)
    fresh = state.capture(session)
    train_step(session, *session.batch(0.0))
    saved = state.capture(session)
    tensors = [value for o in session.optimizer.optimizers for s in o.state.values() for value in s.values()]
    before, places = [value.clone() for value in tensors], [value.data_ptr() for value in tensors]
    train_step(session, *session.batch(0.0))
    assert not all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    state.restore(session, saved)
    now = [value for o in session.optimizer.optimizers for s in o.state.values() for value in s.values()]
    assert [value.data_ptr() for value in now] == places
    assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True))
    state.restore(session, fresh)
    assert all(not value.any() for value in tensors)


def test_a_range_test_puts_back_rates_that_lie_on_the_device(digits: Dataset) -> None:
    session = session_of(digits)
    groups = [g for o in session.optimizer.optimizers for g in o.param_groups]
    with lr_finder._as_it_was(session):
        for group in groups:
            group["lr"] = torch.tensor(group["lr"])
        session.optimizer.set_rate(0.5)
    with_tensors = [g for g in groups if isinstance(g["lr"], Tensor)]
    assert with_tensors == []  # the block's own tensors are gone
    for group in groups:
        group["lr"] = torch.tensor(group["lr"])
    before = [group["lr"].item() for group in groups]
    with lr_finder._as_it_was(session):
        session.optimizer.set_rate(0.5)
        assert [group["lr"].item() for group in groups] != before
    assert [group["lr"].item() for group in groups] == before
