"""From a recipe and a data set to a run directory: `train` begins a run, `resume` goes on with one.

What they leave out: reports and galleries (they work on the finished directory).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Device, OnNonfinite, Recipe, with_epochs
from daybreak.core.device import kept_memory, pick_device, repeatable, synchronizer
from daybreak.core.errors import BadStepError, NonFiniteError, RunError, StorageError, UsageError
from daybreak.core.events import OnEvent
from daybreak.core.files import check_space
from daybreak.core.signals import StopRequest
from daybreak.data.dataset import Dataset
from daybreak.runs.directory import RunDirectory
from daybreak.runs.predictions import Predictions, predict_test
from daybreak.training import checkpoint, state
from daybreak.training.compilation import compile_net, is_worth_compiling
from daybreak.training.loop import Terms, fit
from daybreak.training.session import Session, prepare
from daybreak.training.state import Every
from daybreak.training.summary import Order, config_of, model_card, summary_of

LENGTHS = ("epochs=", "steps=", "min_steps=")  # settings that another length takes the place of
MINUTE = Every(seconds=60.0)


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path | Iterable[Path],
    *,
    seed: int = 0,
    device: Device = "auto",
    budget: float | None = None,
    target: float | None = None,
    dawn_rule: bool = False,
    on_nonfinite: OnNonfinite = "stop",
    deterministic: bool = False,
    every: Every = MINUTE,
    watch: Stopwatch | None = None,
    command: Sequence[str] = (),
    on_event: OnEvent = lambda event: None,
) -> RunDirectory:
    """Train a net and leave a run directory behind.

    Args:
        out: the run directory to make; it must not exist or be empty. Of several, the first that is free.
        budget: seconds of training, in place of the recipe's epochs: one cycle over wall-clock time.
        target: the accuracy (with the recipe's test-time augmentation) to compare the result with.
        dawn_rule: stop at the first epoch whose test accuracy reaches the target, as DAWNBench counted. The test
            images then choose when to stop; the summary says so.
        on_nonfinite: `stop` at a loss or gradient that is not finite, or `skip` the step; the third stops.
        deterministic: use algorithms that give the same bits each time, or fail; on CPUs they do anyway.
        every: how often to save a checkpoint.
        watch: a clock that runs already, where choosing the recipe has spent part of the budget.
        command: the command line, for the record.
        on_event: called with every row of metrics as it comes, and with what a progress display needs.

    Returns:
        The finished run. SIGINT or SIGTERM end training after the step in hand; the run is then usable, its
        summary says `"interrupted"`, and `resume` goes on with it.

    Raises:
        UsageError: the device is missing, or `out` is not empty.
        BadStepError: a loss or gradient is not finite. Weights and checkpoint are those before that step.
        NonFiniteError: so is the net by now (on CUDA, or where the last step of an epoch did it). The last checkpoint
            is what is left.
        BusyError: another process writes to `out`.
        StorageError: the run cannot be written.
    """
    where = pick_device(device)
    order = Order(budget, target, dawn_rule, _allowed(on_nonfinite, where), deterministic)
    with _undisturbed(where) as stop, repeatable(deterministic):
        torch.manual_seed(seed)
        session = prepare(recipe, dataset, seed, where, budget=budget, watch=watch)
        if session.pace.is_done(0):
            raise UsageError(f"--budget {budget:g}s", "over before the first step", "a longer budget")
        with RunDirectory.create(out) as run:  # only now: a recipe that cannot be built leaves no run behind
            check_space(run.path, state.bytes_to_keep(session))
            run.write_config(config_of(session, order, command))
            on_event(_start(session, run, dataset.notes))
            _compile(session, on_event)
            return _to_the_end(session, run, order, every, stop, on_event)


def resume(
    path: Path | str,
    dataset: Dataset,
    *,
    epochs: int | None = None,
    budget: float | None = None,
    device: Device = "auto",
    on_nonfinite: OnNonfinite | None = None,
    every: Every = MINUTE,
    command: Sequence[str] = (),
    on_event: OnEvent = lambda event: None,
) -> RunDirectory:
    """Go on with a run from its newest checkpoint that is whole; without any, from its beginning.

    On the same machine, threads and versions the result equals that of a run that was never stopped, bit for bit.
    Where they differ the run says so.

    Args:
        dataset: the one that the run was trained on.
        epochs: of the whole run, instead of the recipe's. The cycle is then that of so many epochs, and the run enters
            it where its steps so far put it: a finished run that is extended finds its rate risen again.
        budget: the same for a run over wall-clock time.
        on_nonfinite: instead of what the run had.

    Raises:
        UsageError: the run is finished and not extended, or the two lengths are mixed up.
        RunError: the run, or every checkpoint of it, cannot be used.
        BusyError: another process writes to the run.
    """
    where = pick_device(device)
    with _undisturbed(where) as stop, RunDirectory.reopen(path) as run, repeatable(run.is_deterministic):
        config = run.config
        torch.manual_seed(config["seed"])
        order = _extended(run, epochs, budget)
        order = replace(order, on_nonfinite=_allowed(on_nonfinite or order.on_nonfinite, where))
        recipe = with_epochs(run.recipe, epochs)
        saved, notes = checkpoint.newest(run.checkpoints)
        if saved is None and run.has_result:
            raise RunError(run.checkpoints, "missing, though the run has come to a result", "a whole copy of the run")
        watch = Stopwatch(synchronizer(where), saved.facts["spent"] if saved else {})
        session = prepare(recipe, dataset, config["seed"], where, budget=order.budget, watch=watch)
        _compile(session, on_event)
        if saved:
            state.restore(session, saved)
            _check_unfinished(session, run, is_longer=epochs is not None or budget is not None)
        check_space(run.path, state.bytes_to_keep(session))
        unlike = state.differences(saved.facts["circumstances"], state.circumstances(session)) if saved else []
        notes += [f"resumed after step {session.step}" if saved else "no checkpoint yet; from the beginning"]
        notes += [f"not bit-exact: {'; '.join(unlike)}"] if unlike else []
        resumed = [*config.get("resumed", []), {"step": session.step, "command": list(command), "notes": notes}]
        plan = {"recipe": recipe.model_dump(mode="json", exclude={"expected"})} | vars(order)
        plan["command"] = _with_length(config["command"], epochs, budget)
        run.write_config(config | plan | {"resumed": resumed})
        run.truncate_metrics(saved.facts["metrics_bytes"] if saved else 0)
        on_event(_start(session, run, notes))
        return _to_the_end(session, run, order, every, stop, on_event)


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[StopRequest]:
    """While the block runs signals are noted and memory is kept; the caller's random state is as it was afterwards."""
    memory = kept_memory() if device.type == "cpu" else nullcontext()
    with StopRequest() as stop, memory, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield stop


def _extended(run: RunDirectory, epochs: int | None, budget: float | None) -> Order:
    """The run's order with its new length."""
    order = Order(**{name: run.config[name] for name in vars(Order()) if name in run.config})
    if (budget and order.budget is None) or (epochs and order.budget is not None):
        kind = "epochs" if order.budget is None else "wall-clock time"
        raise UsageError(f"--resume {run.path}", f"its cycle is over {kind}", "--epochs or --budget, whichever it had")
    return replace(order, budget=budget or order.budget)


def _with_length(command: Sequence[str], epochs: int | None, budget: float | None) -> list[str]:
    """The command that gives the longer run from its beginning."""
    option, value = ("--epochs", epochs) if epochs else ("--budget", budget)
    if value is None or not command:
        return list(command)
    pairs = enumerate(zip(command, [*command[1:], ""], strict=True))
    said = {i for i, (word, after) in pairs if word == option or (word == "--set" and after.startswith(LENGTHS))}
    kept = [word for i, word in enumerate(command) if i not in said and i - 1 not in said]
    return [*kept, option, str(value)]


def _allowed(on_nonfinite: OnNonfinite, device: torch.device) -> OnNonfinite:
    if on_nonfinite == "skip" and device.type == "cuda":
        raise UsageError("--on-nonfinite skip", "not on CUDA, where steps are not looked at one by one", "without it")
    return on_nonfinite


def _check_unfinished(session: Session, run: RunDirectory, is_longer: bool) -> None:
    """A run can end before its cycle: half a step before its budget, or by DAWNBench's rule."""
    above = "--epochs or --budget above what it had"
    if run.is_finished(session.step) and not is_longer:
        raise UsageError(f"--resume {run.path}", "is finished already", above)
    if is_longer and session.pace.is_done(session.step):
        raise UsageError(f"--resume {run.path}", f"is as long already, with {session.step} steps", above)


def _to_the_end(
    session: Session, run: RunDirectory, order: Order, every: Every, stop: StopRequest, on_event: OnEvent
) -> RunDirectory:
    """Train, judge, and write down what came of it."""
    terms = Terms(order.target if order.dawn_rule else None, every, order.on_nonfinite)
    try:
        by_the_rule = fit(session, run, stop, terms, on_event)
    except NonFiniteError as error:
        with suppress(StorageError):  # the worse news is the step
            _write_what_is_left(session, run, order, error)
        raise
    _write_model(session, run)
    predictions = None if stop.signal else judge(session, run, stop)
    interrupted = None if predictions else stop.signal  # what comes later does not undo a finished training
    summary = summary_of(session, order, predictions, interrupted=interrupted, by_the_rule=by_the_rule)
    run.write_summary(summary)
    on_event({"event": "end"} | summary)
    return run


def _write_what_is_left(session: Session, run: RunDirectory, order: Order, error: NonFiniteError) -> None:
    """The net before a bad step. Where the net itself is spoilt, what an earlier part of the run had come to stays."""
    if isinstance(error, BadStepError):
        _write_model(session, run)
    if not run.has_result:
        run.write_summary(summary_of(session, order, error=str(error)))


def _write_model(session: Session, run: RunDirectory) -> None:
    run.remove_results()  # a resumed run may have some, of the weights that are now replaced
    run.write_model(session.classifier.net, model_card(session))


def judge(session: Session, run: RunDirectory, stop: StopRequest) -> Predictions | None:
    """Store what the finished net says about the test images; None where a signal came."""
    classifier, test, tta = session.classifier, session.dataset.test, session.recipe.tta
    with session.watch.timed("evaluate"):
        predictions = stop.unless_stopped(lambda: predict_test(classifier, test, tta))
    if predictions:
        run.write_predictions(predictions)
    return predictions


def _compile(session: Session, on_event: OnEvent) -> None:
    if is_worth_compiling(session):
        on_event({"event": "compile"} | compile_net(session))


def _start(session: Session, run: RunDirectory, notes: Sequence[str]) -> dict[str, Any]:
    plan = {"epochs": session.pace.epochs, "steps": session.pace.steps, "step": session.step}
    return {"event": "start", "run": str(run.path), "notes": list(notes)} | plan
