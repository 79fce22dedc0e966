"""From a recipe and a data set to a run directory: `train` begins a run, `resume` goes on with one.

What they leave out: reports and galleries (they work on the finished directory).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from daybreak.core.clock import Stopwatch
from daybreak.core.config import Recipe, with_epochs
from daybreak.core.device import kept_memory, pick_device, repeatable, synchronizer
from daybreak.core.errors import RunError, StoppedError, UsageError
from daybreak.core.events import OnEvent
from daybreak.core.files import check_space
from daybreak.core.options import TrainOptions, lengthened
from daybreak.core.process_state import left_as_found, plain_torch
from daybreak.core.signals import StopRequest
from daybreak.data.dataset import Dataset
from daybreak.models.winograd.choice import Convolutions
from daybreak.runs.directory import RunDirectory
from daybreak.training import checkpoint, state
from daybreak.training.compilation import choose_convolutions
from daybreak.training.extensions import Extensions
from daybreak.training.finish import to_the_end
from daybreak.training.graphs import make_ready
from daybreak.training.images import Streamed
from daybreak.training.onlooker import created, reopened
from daybreak.training.session import ALONE, Session, prepare
from daybreak.training.step import is_guarded
from daybreak.training.summary import config_of
from daybreak.training.team import Team


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path | Iterable[Path],
    options: TrainOptions = TrainOptions(),
    *,
    extensions: Extensions = Extensions(),
    watch: Stopwatch | None = None,
    by_features: bool = False,
    team: Team = ALONE,
    on_event: OnEvent = lambda event: None,
) -> RunDirectory:
    """Train a net and leave a run directory behind.

    Args:
        out: the run directory to make; it must not exist or be empty. Of several, the first that is free.
        options: how to train; what recipe, data and place are is said by the other arguments.
        extensions: a net, loss, augmentation and callbacks of the caller's own.
        watch: a clock that runs already, where choosing the recipe has spent part of the budget.
        by_features: evaluate the finished net on features where it has them, one view, and not by taking the test
            images through the whole net once more.
        team: the processes that train it together; each of them makes this call.
        on_event: called with every row of metrics as it comes, and with what a progress display needs.

    Returns:
        The finished run. SIGINT or SIGTERM end training after the step in hand; the run is then usable, its
        summary says `"interrupted"`, and `resume` goes on with it.

    Raises:
        UsageError: the device is missing, `out` is not empty, or options do not go together with the data.
        BadStepError: a loss or gradient is not finite. Weights and checkpoint are those before that step.
        NonFiniteError: so is the net by now (on CUDA and MPS, or where the last step of an epoch did it). The last
            checkpoint is what is left.
        BusyError: another process writes to `out`.
        StorageError: the run cannot be written.
    """
    where = pick_device(options.device)
    check_options(options, dataset, where)
    check_team(team, recipe, dataset)
    with _undisturbed(where, team) as stop, repeatable(options.deterministic):
        torch.manual_seed(options.seed)
        session = _prepared(
            stop, recipe, "nothing was trained yet; the same command begins again",
            lambda: prepare(
                recipe, dataset, options.seed, where, budget=options.budget, watch=watch, extensions=extensions,
                team=team, memory=options.memory,
            ),
        )  # fmt: skip
        choose_convolutions(session)
        if session.horizon.is_done(0):
            raise UsageError(f"--budget {options.budget:g}s", "over before the first step", "a longer budget")
        # Only now: a recipe that cannot be built leaves no run behind.
        with created(team, out, extensions.net) as run:
            check_space(run.path, state.bytes_to_keep(session))
            run.write_config(config_of(session, options))
            on_event(_start(session, run, [*dataset.notes, *_streamed(session)]))
            _make_ready(session, options, on_event)
            return to_the_end(session, run, options, stop, on_event, by_features)


def resume(
    path: Path | str,
    dataset: Dataset,
    options: TrainOptions | None = None,
    *,
    epochs: int | None = None,
    budget: float | None = None,
    extensions: Extensions = Extensions(),
    command: Sequence[str] = (),
    team: Team = ALONE,
    on_event: OnEvent = lambda event: None,
) -> RunDirectory:
    """Go on with a run from its newest checkpoint that is whole; without any, from its beginning. A finished run stays
    as it is, unless it is to be longer.

    On the same machine, threads and versions the result equals that of a run that was never stopped, bit for bit.
    Where they differ the run says so.

    Args:
        dataset: the one that the run was trained on.
        options: the run's own, as they are by default, or with what the caller gave anew.
        epochs: of the whole run, instead of the recipe's. The cycle is then that of so many epochs, and the run enters
            it where its steps so far put it: a finished run that is extended finds its rate risen again.
        budget: the same for a run over wall-clock time.
        command: the command line, for the record.
        team: the processes that go on with it, which may be more or fewer than before.

    Raises:
        UsageError: the run is as long already, or the two lengths are mixed up.
        RunError: the run, or every checkpoint of it, cannot be used.
        BusyError: another process writes to the run.
    """
    options = options or RunDirectory.open(path).options
    where = pick_device(options.device)
    with (
        _undisturbed(where, team) as stop,
        reopened(team, path, extensions.net) as run,
        repeatable(options.deterministic),
    ):
        _check_length(run, epochs, budget)
        options = lengthened(options, epochs, budget)
        check_options(options, dataset, where)
        torch.manual_seed(options.seed)
        recipe = with_epochs(run.recipe, epochs)
        check_team(team, recipe, dataset)
        saved, notes = _newest(run, team)
        if saved is None and run.has_result:
            raise RunError(run.checkpoints, "missing, though the run has come to a result", "a whole copy of the run")
        watch = Stopwatch(synchronizer(where), saved.facts["spent"] if saved else {})
        session = _prepared(
            stop, recipe, f"the run is as it was; --resume {run.path} goes on",
            lambda: prepare(
                recipe, dataset, options.seed, where, watch=watch, extensions=extensions,
                budget=options.budget, resumes=True, team=team, memory=options.memory,
                convolutions=Convolutions.of(run.config.get("convolutions")),
            ),
        )  # fmt: skip
        choose_convolutions(session)
        _make_ready(session, options, on_event)
        if saved:
            decided = state.deciding(session, options)
            state.check_decided(run.path / "config.json", saved.facts.get("decided_by"), decided)
            state.restore(session, saved)
            if epochs is None and budget is None and run.is_finished(session.step):
                session.graphs.clear()
                on_event({"event": "note", "why": f"{run.path} is finished already; with more --epochs it goes on"})
                return run
            _check_longer(session, run, is_longer=epochs is not None or budget is not None)
        check_space(run.path, state.bytes_to_keep(session))
        unlike = state.differences(saved.facts["circumstances"], state.circumstances(session)) if saved else []
        notes += [f"resumed after step {session.step}" if saved else "no checkpoint yet; from the beginning"]
        notes += [f"not bit-exact: {'; '.join(unlike)}"] if unlike else []
        kept = run.metrics_until(session.step, saved.facts["metrics_bytes"] if saved else 0)
        notes += [kept.damage] if kept.damage else []
        config = _resumed_config(run.config, session, options, [*command], notes)
        team.say(lambda: "")  # Everything has been read and found sound, by all: only now is anything written.
        run.keep_metrics(kept)
        run.write_config(config)
        on_event(_start(session, run, [*notes, *_streamed(session)]))
        return to_the_end(session, run, options, stop, on_event)


def _prepared(stop: StopRequest, recipe: Recipe, remark: str, make: Callable[[], Session]) -> Session:
    """What `prepare` makes. Computing features can take minutes, which a signal ends at once."""
    session = stop.unless_stopped(make) if recipe.features else make()
    if session is None:
        raise StoppedError(stop.signal or 0, remark)
    return session


def check_options(options: TrainOptions, dataset: Dataset, device: torch.device) -> None:
    """
    Raises:
        UsageError: options do not go together with the data or the device.
    """
    if options.on_nonfinite == "skip" and not is_guarded(device):
        why = f"not on {device.type.upper()}, where steps are not checked one by one"
        raise UsageError("--on-nonfinite skip", why, "leave it out, or --device cpu")
    if options.dawn_rule and dataset.validation is not None:
        raise UsageError(
            "--dawn-rule", "goes by the test part, and the curves show the validation part", "--validate 0"
        )
    if options.keep == "best" and dataset.validation is None:
        raise UsageError("--keep best", "only the test part is there, and it chooses nothing", "--validate 0.1 with it")


def check_team(team: Team, recipe: Recipe, dataset: Dataset) -> None:
    """
    Raises:
        UsageError: several processes have nothing to share in this training.
    """
    if team.size == 1:
        return
    if recipe.features:
        why = "trains the top of a net on features that one process computes in the time"
        raise UsageError(f"--recipe {recipe.name} in {team.size} processes", why, "one process, or --set features=0")
    if min(recipe.batch_size, len(dataset.train.labels_N)) < 2 * team.size:
        why = f"a batch of {recipe.batch_size} leaves one of them without two images"
        raise UsageError(f"{team.size} processes", why, "fewer, or a larger --set batch_size")


def _newest(run: RunDirectory, team: Team) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """What `checkpoint.newest` finds for the first process, which sets damaged ones aside."""
    saved, notes = checkpoint.newest(run.checkpoints) if team.is_first else (None, [])
    step = team.say(lambda: saved.facts["step"] if saved else None)
    if team.is_first or step is None:
        return saved, notes
    return checkpoint.read_step(run.checkpoints, step), notes


@contextmanager
def _undisturbed(device: torch.device, team: Team) -> Iterator[StopRequest]:
    """While the block runs signals are noted, memory is kept and PyTorch is as usual; what the process has in common
    with its other parts is afterwards as it was."""
    memory = kept_memory() if device.type == "cpu" else nullcontext()
    generators = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with left_as_found(), plain_torch(), team.stop_request() as stop, memory, generators:
        yield stop


def _check_length(run: RunDirectory, epochs: int | None, budget: float | None) -> None:
    if budget and run.recipe.is_head_only:
        why = "its head is trained for epochs; the budget was for the features"
        raise UsageError(f"--resume {run.path} --budget", why, "--epochs above what it had")
    over_time = run.options.budget is not None and not run.recipe.is_head_only
    if (budget and not over_time) or (epochs and over_time and run.recipe.stretch):
        kind = "wall-clock time" if over_time else "epochs"
        raise UsageError(f"--resume {run.path}", f"its cycle is over {kind}", "--epochs or --budget, whichever it had")


def _resumed_config(
    config: Mapping[str, Any], session: Session, options: TrainOptions, command: list[str], notes: list[str]
) -> dict[str, Any]:
    """config.json of a run that goes on: as it would be for the whole of it, and from where it went on and how."""
    resumed = [*config.get("resumed", []), {"step": session.step, "command": command, "notes": notes}]
    fresh = config_of(session, options)
    if "options" not in config:  # of 0.1.0, whose recipe and settings stand only in its command
        length = ["--epochs", str(options.epochs)] if options.epochs else []
        fresh["command"] = [*config["command"], *length]
    return {
        **config,
        **{key: fresh[key] for key in ("format", "recipe", "options", "command", "convolutions")},
        "resumed": resumed,
    }


def _check_longer(session: Session, run: RunDirectory, is_longer: bool) -> None:
    """A run can end before its cycle: half a step before its budget, or by DAWNBench's rule."""
    if is_longer and session.horizon.is_done(session.step):
        why = f"is as long already, with {session.step} steps"
        raise UsageError(f"--resume {run.path}", why, "--epochs or --budget above what it had")


def _make_ready(session: Session, options: TrainOptions, on_event: OnEvent) -> None:
    told = make_ready(session, options.compile)
    if told is not None:
        on_event({"event": "compile"} | told)


def _streamed(session: Session) -> list[str]:
    images = getattr(session.loader, "images", None)
    return ["training images are read as they are needed: they do not fit in memory"] * isinstance(images, Streamed)


def _start(session: Session, run: RunDirectory, notes: Sequence[str]) -> dict[str, Any]:
    plan = {"epochs": session.horizon.epochs, "steps": session.horizon.steps, "step": session.step}
    plan |= {"steps_per_epoch": session.loader.steps_per_epoch}
    return {"event": "start", "run": str(run.path), "notes": list(notes)} | plan
