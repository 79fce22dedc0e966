"""Verbs that train: one run, a range test, a series of runs."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from daybreak.cli import output
from daybreak.cli.options import (
    COMPILE,
    DEVICES,
    TRAIN,
    Data,
    Debug,
    Json,
    Quiet,
    Settings,
    announce,
    app,
    choice,
    print_result,
    stderr,
)
from daybreak.cli.train_options import takes_train_options
from daybreak.core.errors import TARGET_MISSED_EXIT_CODE, UsageError
from daybreak.core.options import TRAINING, train_options


@app.command(rich_help_panel=TRAIN, epilog="Example: daybreak train cifar10 --recipe sprint --seed 0")
@takes_train_options
def train(
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            rich_help_panel=TRAINING,
            help="Go on with this run; with more --epochs or --budget than it had, extend it.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
    **given: Any,
) -> None:
    """Train a classifier: a run directory, a report, and one last line with accuracy, seconds and the directory."""
    if resume is None and "data" not in given:
        raise UsageError("daybreak train", "DATA is missing", "daybreak train cifar10, or --resume RUN")
    announce(f"opening data {given['data']}" if resume is None else f"opening run {resume}", quiet)
    from daybreak import api
    from daybreak.cli.progress_bar import TrainingProgress
    from daybreak.core.launcher import launch
    from daybreak.training.recipe_choice import what_it_takes

    speaks = launch().is_first
    with TrainingProgress(stderr, quiet or not speaks) as on_event:
        start = partial(api.train, given.pop("data", None)) if resume is None else partial(api.resume, resume)
        run = start(**given, on_event=on_event)
    summary = run.directory.summary
    if speaks:
        print_result(summary | {"run": str(run.path)}, as_json, lambda: print(output.last_line(summary, run.path)))
    if summary["interrupted"]:
        raise typer.Exit(128 + summary["interrupted"])
    if summary["target_met"] is False:
        needed = what_it_takes(summary["target"], summary["dataset"])
        if speaks:
            stderr.print(f"to reach {summary['target']:.2%}: {needed}", highlight=False, markup=False)
        raise typer.Exit(TARGET_MISSED_EXIT_CODE)


@app.command("lr-find", rich_help_panel=TRAIN, epilog="Example: daybreak lr-find cifar10 --recipe page")
def lr_find(
    data: Data,
    recipe: Annotated[str | None, typer.Option(help="See `daybreak recipes`; by default what suits the data.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many tests.")] = 3,
    steps: Annotated[int, typer.Option(help="Of each test, at most.")] = 100,
    lowest: Annotated[float | None, typer.Option(help="Rate to begin with; by default after the optimizer.")] = None,
    highest: Annotated[float | None, typer.Option(help="Rate to end with.")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps")] = "auto",
    settings: Settings = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where curve and picture go.")] = Path("lr-find"),
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Range test: the loss while the rate climbs, and the rates that it suggests. Nothing is trained."""
    announce(f"opening data {data}", quiet)
    from daybreak import api
    from daybreak.cli.progress_bar import TrainingProgress
    from daybreak.core.config import parse_settings

    changed = parse_settings(settings or [])
    with TrainingProgress(stderr, quiet) as on_event:
        found = api.find_lr(
            data, recipe, seeds=seeds, steps=steps, lowest=lowest, highest=highest,
            device=choice("--device", device, DEVICES), settings=changed, out=out, on_event=on_event,
        )  # fmt: skip
    picture, peak = out / "lr-find.png", None if found.doubt else float(f"{found.lr_max:.3g}")
    use = str(train_options(data=data, recipe=recipe or found.recipe, lr=peak, settings=changed))
    facts = found.as_json() | {"picture": str(picture), "command": use}
    print_result(facts, as_json, lambda: output.rates(found, picture, use))


@app.command(
    rich_help_panel=TRAIN,
    epilog="Example: daybreak bench cifar10 --recipe sprint-5 --recipe sprint --runs 5 --target 0.9",
)
def bench(
    data: Data,
    recipe: Annotated[list[str] | None, typer.Option(help="A recipe to run; repeatable.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each recipe, instead of its own.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option(metavar="TIME", help="Train for this long, e.g. 5m; repeatable.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Seeds of each, interleaved.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    target: Annotated[float | None, typer.Option(help="Also report the time to this accuracy.")] = None,
    dawn_rule: Annotated[
        bool, typer.Option("--dawn-rule", help="Time to target by the first epoch that reaches it, as DAWNBench did.")
    ] = False,
    cost_per_hour: Annotated[float | None, typer.Option(min=0, help="Price of this machine in USD an hour.")] = None,
    dawn: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write DAWNBench's .tsv and .json.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The record's folder; if it is there, what is missing is added.")
    ] = None,
    latency: Annotated[
        str,
        typer.Option(
            metavar="quick|all|none",
            help="Time answers: of the net as it is and folded; also compiled, as ONNX and in eight bits; not at all.",
        ),
    ] = "quick",
    compile: Annotated[
        str, typer.Option(metavar="auto|always|never", help="Compile nets before training, on CUDA.")
    ] = "auto",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps")] = "auto",
    workers: Annotated[
        int,
        typer.Option(min=1, help="Processes that share this machine's cores: accuracies only, no times, no record."),
    ] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Recipes side by side over many seeds: accuracy, spread, time to target, DAWNBench's four figures."""
    announce(f"opening data {data}", quiet)
    from daybreak.benchmarking import bench as benchmark
    from daybreak.cli.progress_bar import TrainingProgress
    from daybreak.core.clock import parse_seconds

    budgets = [parse_seconds(text, "--budget") for text in budget or []]
    with TrainingProgress(stderr, quiet) as on_event:
        record = benchmark.bench(
            data, recipe or [], epochs=epochs, budgets=budgets, runs=runs, seed=seed, target=target,
            dawn_rule=dawn_rule, cost_per_hour=cost_per_hour, dawn_folder=dawn, out=out,
            device=choice("--device", device, DEVICES), latency=latency,  # type: ignore[arg-type]
            compile=choice("--compile", compile, COMPILE), workers=workers, on_event=on_event,
        )  # fmt: skip
    print_result(record, as_json, lambda: output.bench(record))
