"""The run directory as the processes see it that write nothing: the first one of a team does."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from daybreak.core.plugins import Factory
from daybreak.runs.directory import ModelCard, RunDirectory
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
