"""What a run's state is made of: all that decides how it goes on, so that a resumed run ends where one that was never
stopped does.

Weights, buffers, moving average, optimizer, random states, step and clock. Batches are not part of it: they are a pure
function of seed and step (`training.loader`), and so are learning rate and momentum (`schedule`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daybreak.core.config import LENGTH
from daybreak.core.device import describe_hardware, versions
from daybreak.core.errors import NonFiniteError, RunError
from daybreak.core.files import to_json
from daybreak.core.options import TrainOptions, cli_of
from daybreak.core.sections import flatten
from daybreak.models.native.build import library
from daybreak.runs.directory import RunDirectory
from daybreak.training import checkpoint
from daybreak.training.checkpoint import Checkpoint
from daybreak.training.session import Session
from daybreak.training.step_log import StepLog

Row = Mapping[str, Any]

EXACT_ON = (
    "device", "gpu", "cpu", "cpu_capability", "threads", "processes",
    "torch", "numpy", "compute_dtype", "loops", "steps",
)  # fmt: skip


class Saver:
    """Saves a session when it is time to, and with `keep` = best after every epoch that is the best so far.

    Args:
        evaluated: rows of the epochs so far.
    """

    def __init__(
        self, session: Session, run: RunDirectory, log: StepLog, options: TrainOptions, evaluated: Sequence[Row] = ()
    ) -> None:
        self.session, self.run, self.log, self.every = session, run, log, options.every
        self._decided_by = deciding(session, options)
        self._step, self._seconds = session.step, session.watch.seconds("train")
        self._keeps_best = options.keep == "best"
        self._best = max((row["val_acc"] for row in evaluated), default=-1.0) if self._keeps_best else -1.0

    def note(self, row: Row) -> None:
        """Take an epoch's row, and save where its validation accuracy is above that of all epochs before it."""
        if self._keeps_best and row["val_acc"] > self._best:
            self._best = row["val_acc"]
            self.save()
            if self.session.team.is_first:
                checkpoint.mark_best(self.run.checkpoints, self.session.step)

    def save_if_due(self) -> None:
        """Save if enough steps or seconds have passed since the last time."""
        seconds = self.session.watch.seconds("train") - self._seconds
        if self.session.step - self._step >= self.every.steps or seconds >= self.every.seconds:
            self.save()

    def save(self) -> None:
        """Store the session as it is, after a whole step.

        Raises:
            NonFiniteError: the state is not worth keeping (on CUDA a bad step is seen only later).
            StorageError: the file system refused; earlier checkpoints are as they were.
        """
        self.log.flush()
        self._step, self._seconds = self.session.step, self.session.watch.seconds("train")
        if not self.session.team.is_first:
            return
        state = capture(self.session, self.run.flush_metrics(), self._decided_by)
        if not all(value.isfinite().all() for value in state.tensors.values() if value.is_floating_point()):
            raise NonFiniteError(f"step {self.session.step}", "the weights are not finite", "a lower schedule.max_lr")
        checkpoint.write(self.run.checkpoints, state)
        self._seconds = self.session.watch.seconds("train")  # writing takes time too


def capture(session: Session, metrics_bytes: int = 0, decided_by: Row | None = None) -> Checkpoint:
    """The session's state as copies on the CPU; see `deciding` for what it was decided by."""
    tensors = {f"net.{name}": value for name, value in session.net.state_dict().items()}
    if session.ema:
        tensors |= {f"ema.{name}": value for name, value in session.ema.state_dict().items()}
    for prefix, parameter, optimizer in _optimized(session):
        tensors |= {prefix + name: value for name, value in optimizer.state.get(parameter, {}).items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if session.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(session.device)
    facts = {
        "step": session.step,
        "skipped": session.skipped,
        "sizes": {str(size): steps for size, steps in session.sizes.items()},
        "spent": session.watch.spent(),
        "metrics_bytes": metrics_bytes,
        "callbacks": [callback.state_dict() for callback in session.extensions.callbacks],
        "circumstances": circumstances(session),
        "decided_by": decided_by,
    }
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    return Checkpoint(copies, facts)


def bytes_to_keep(session: Session) -> int:
    """What the checkpoints of a run take on disk at most, about: the ones that are kept and one being written, each
    with weights, moving average and two moments."""
    weights = sum(value.numel() * value.element_size() for value in session.net.state_dict().values())
    return weights * 4 * (checkpoint.KEPT + 2)


def restore(session: Session, saved: Checkpoint) -> None:
    """Put a session, fresh from `prepare` for the same recipe and data, where the checkpoint was taken. (Its clock goes
    on from `facts["spent"]` where it was made with it.)

    Raises:
        RunError: the state is of another net or optimizer.
    """
    with _fitting(saved):
        _restore_weights(session, saved)
        for prefix, parameter, optimizer in _optimized(session):
            _restore_state(optimizer.state[parameter], _part(saved.tensors, prefix), parameter)
        torch.set_rng_state(saved.tensors["random.cpu"])
        if session.device.type == "cuda" and "random.cuda" in saved.tensors:
            torch.cuda.set_rng_state(saved.tensors["random.cuda"], session.device)
    for callback, state in zip(session.extensions.callbacks, saved.facts.get("callbacks", ()), strict=False):
        callback.load_state_dict(state)
    session.step, session.skipped = saved.facts["step"], saved.facts["skipped"]
    session.sizes.clear()
    session.sizes.update({int(size): steps for size, steps in saved.facts["sizes"].items()})


def take_best(session: Session, folder: Path) -> int:
    """Give the session the weights of the best epoch's checkpoint; returns its step.

    Raises:
        RunError: the checkpoint is damaged, or of another net.
    """
    best = checkpoint.best(folder)
    if best is None:
        return session.step
    with _fitting(best):
        _restore_weights(session, best)
    return int(best.facts["step"])


@contextmanager
def _fitting(saved: Checkpoint) -> Iterator[None]:
    """Turn what PyTorch says of tensors of another name, shape or dtype into a RunError."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError) as error:
        what, why = f"checkpoint of step {saved.facts['step']}", f"does not fit the recipe's net ({str(error)[:200]})"
        raise RunError(what, why, "the run's own config.json") from None


def _restore_weights(session: Session, saved: Checkpoint) -> None:
    session.net.load_state_dict(_part(saved.tensors, "net."))
    if session.ema:
        session.ema.load_state_dict(_part(saved.tensors, "ema."))


def circumstances(session: Session) -> dict[str, Any]:
    """What the bits of a result depend on besides recipe, data and seed."""
    here = describe_hardware(session.device) | versions()
    here["compute_dtype"] = str(session.dtype).removeprefix("torch.")
    if session.team.size > 1:
        here["processes"] = session.team.size
    if session.device.type == "cpu":  # convolutions and norms round otherwise in C than in plain PyTorch
        here["loops"] = "native" if library() else "plain"
    if session.device.type == "cuda":
        here["steps"] = "compiled" if session.forward is not session.net else "eager"
    return {name: here[name] for name in EXACT_ON if name in here}


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what two circumstances differ, as text."""
    names = [name for name in EXACT_ON if then.get(name) != now.get(name)]
    return [f"{name} {then.get(name, 'none')} then, {now.get(name, 'none')} now" for name in names]


def deciding(session: Session, options: TrainOptions) -> dict[str, Any]:
    """What has decided a run's state so far, by key: recipe, seed, data, and the options that cannot be given anew on
    resume. Not its length, which can."""
    recipe = session.recipe.model_dump(mode="json", exclude={"expected", "summary", *LENGTH})
    fixed = {
        name: value for name, value in options.as_json().items() if not cli_of(name).resume and cli_of(name).repeat
    }
    found = {"recipe": recipe, "seed": session.seed, "data": {"fingerprint": session.dataset.fingerprint}}
    found["options"] = {name: value for name, value in fixed.items() if name not in ("recipe", "settings")}
    if session.features:
        found["weights"] = session.features.digest
    return flatten(json.loads(to_json(found)))


def check_decided(path: Path, then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """
    Args:
        then: `deciding` of the checkpoint; None where it was written by a version that kept none.

    Raises:
        RunError: a run's configuration was edited since the checkpoint.
    """
    then = then or {}
    for key in sorted(then.keys() & now.keys()):  # another version may know more keys, or fewer
        if then[key] != now[key]:
            why = f"{key} is {now[key]}, and the run was trained with {then[key]}"
            raise RunError(path, why, "the value it had; a new run for another one")


def _optimized(session: Session) -> list[tuple[str, Tensor, torch.optim.Optimizer]]:
    """Every parameter under an optimizer, with the prefix of its state's names."""
    return [
        (f"optimizer.{i}.{j}.", parameter, optimizer)
        for i, optimizer in enumerate(session.optimizer.optimizers)
        for j, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"])
    ]


def _restore_state(state: dict[str, Any], saved: Mapping[str, Tensor], parameter: Tensor) -> None:
    """In place where there is something already: a CUDA graph knows tensors by their address."""
    for name in state.keys() - saved.keys():
        state[name].zero_()  # which is where all of them begin
    for name, value in saved.items():
        if name in state:
            state[name].copy_(value)
        else:
            state[name] = _placed(value, parameter)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    """A state tensor on its parameter's device and in its layout in memory, on which the bits of sums depend; counters
    as they are, and where the optimizer reads them."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value.to(parameter.device, copy=True) if parameter.is_cuda else value.clone()
