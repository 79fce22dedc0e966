"""The run directory of a team: the first process makes and writes it, the others look on."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from daybreak.core.errors import UsageError
from daybreak.core.launcher import launch
from daybreak.core.options import TrainOptions
from daybreak.core.plugins import Factory
from daybreak.runs.card import ModelCard
from daybreak.runs.directory import RunDirectory
from daybreak.runs.metrics_rows import Kept
from daybreak.runs.predictions import Predictions
from daybreak.training.team import Team


class Onlooker(RunDirectory):
    """Reads what is there and drops what it is given to write."""

    def write_config(self, config: Mapping[str, Any]) -> None: ...

    def write_summary(self, summary: Mapping[str, Any]) -> None: ...

    def append_metrics(self, row: Mapping[str, Any]) -> None: ...

    def flush_metrics(self) -> int:
        return 0

    def keep_metrics(self, kept: Kept) -> None: ...

    def write_model(self, net: nn.Module, card: ModelCard) -> None: ...

    def write_predictions(self, predictions: Predictions) -> None: ...

    def remove_results(self) -> None: ...


def begun(options: TrainOptions, team: Team) -> Path | None:
    """The run that this call goes on with: a launcher that starts dead processes again makes the same call again. Of
    any other call its directory has to be free, which is looked at before data is opened.

    Raises:
        As `RunDirectory.create`, and UsageError if it is another call's run.
    """
    out = Path(options.out) if options.out else None
    may_restart = launch().may_restart and team.size > 1
    if may_restart and out is None:
        why = "missing, and a launcher that starts processes again must find the run"
        raise UsageError("--out", why, "--out DIR, in a folder that all machines see")
    is_begun = out is not None and team.say(lambda: _is_begun(out, options, may_restart))
    return out if is_begun else None


def _is_begun(out: Path, options: TrainOptions, may_restart: bool) -> bool:
    if not may_restart or not (out / "config.json").is_file():
        RunDirectory.check_new(out)
        return False
    begun_with = RunDirectory.open(out).options.command()
    if begun_with != options.command():
        raise UsageError(f"--out {out}", f"has the run of {shlex.join(begun_with)}", "another directory, or --resume")
    return True


@contextmanager
def created(team: Team, out: Path | Iterable[Path], net: Factory | None) -> Iterator[RunDirectory]:
    """A new run, made and held by the first process, for all."""
    if not team.is_first:
        yield Onlooker(team.say(lambda: ""), net)
        return
    with RunDirectory.create(out, net) as run:
        team.say(lambda: str(run.path))
        yield run


@contextmanager
def reopened(team: Team, path: Path | str, net: Factory | None) -> Iterator[RunDirectory]:
    """A run to go on with, held by the first process, for all; they have to find it under the same path."""
    if not team.is_first:
        team.say(lambda: "")  # when the first one has it
        run = Onlooker.open(path, net)
        yield run
        return
    with RunDirectory.reopen(path, net) as run:
        team.say(lambda: "")
        yield run
