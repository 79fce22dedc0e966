"""Verbs that train: one run, a range test, a series of runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from daybreak.cli import output
from daybreak.cli.options import (
    DATA_HELP,
    DEVICES,
    Data,
    Debug,
    Json,
    Quiet,
    Settings,
    Size,
    SkipBad,
    SplitSeed,
    Strict,
    app,
    choice,
    is_given,
    print_result,
    stderr,
)
from daybreak.core.errors import TARGET_MISSED_EXIT_CODE, UsageError


@app.command(epilog="Example: daybreak train cifar10 --recipe sprint --seed 0")
def train(
    context: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP)] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A name of `daybreak recipes`, or a file.toml; by default what fits budget, target or data."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Train for this long, e.g. 5m, in one cycle; evaluation and report come on top."
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Test accuracy to reach, e.g. 0.94: picks the recipe; exit 8 if it is missed."),
    ] = None,
    dawn_rule: Annotated[
        bool, typer.Option("--dawn-rule", help="Stop at the first epoch that reaches the target on the test images.")
    ] = False,
    lr: Annotated[
        str | None, typer.Option("--lr", metavar="RATE|auto", help="Peak of the cycle; auto: by a range test.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides initial weights, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps")] = "auto",
    size: Size = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; a new one below runs/ by default.")] = None,
    split_seed: SplitSeed = 0,
    skip_bad: SkipBad = False,
    strict: Strict = False,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with this run; with more --epochs or --budget than it had, extend it."),
    ] = None,
    on_nonfinite: Annotated[
        str, typer.Option(metavar="stop|skip", help="At a loss or gradient that is not finite; the third stops.")
    ] = "stop",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits each time, also on CUDA.")
    ] = False,
    checkpoint_every: Annotated[
        str, typer.Option(metavar="TIME|Nsteps", help="How often to save, e.g. 1m or 40steps; or `never`.")
    ] = "1m",
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="tensorboard|mlflow", help="Also send metrics there, if it is installed; repeatable."),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a classifier: a run directory, a report, and one last line with accuracy, seconds and the directory."""
    from daybreak import api
    from daybreak.cli.progress_bar import TrainingProgress
    from daybreak.core.clock import parse_seconds
    from daybreak.core.config import parse_settings
    from daybreak.training.recipe_choice import what_it_takes

    where, seconds = (
        choice("--device", device, DEVICES),
        parse_seconds(budget, "--budget") if budget is not None else None,
    )
    policy = choice("--on-nonfinite", on_nonfinite, ("stop", "skip"))
    with TrainingProgress(stderr, quiet) as on_event:
        if resume:
            _check_resumable(context)
            run = api.resume(
                resume, epochs=epochs, budget=seconds, data=data, device=where, checkpoint_every=checkpoint_every,
                on_nonfinite=policy if is_given(context, "on_nonfinite") else None, track=track or (), report=report,
                on_event=on_event,
            )  # fmt: skip
        else:
            run = api.train(
                _present(data), recipe=recipe, epochs=epochs, budget=seconds, target=target, dawn_rule=dawn_rule,
                lr=_rate(lr), seed=seed, device=where, size=size, settings=parse_settings(settings or []), out=out,
                split_seed=split_seed, skip_bad=skip_bad, strict=strict, on_nonfinite=policy,
                deterministic=deterministic, checkpoint_every=checkpoint_every, track=track or (), report=report,
                on_event=on_event,
            )  # fmt: skip
    summary = run.directory.summary
    print_result(summary | {"run": str(run.path)}, as_json, lambda: print(output.last_line(summary, run.path)))
    if summary["interrupted"]:
        raise typer.Exit(128 + summary["interrupted"])
    if summary["target_met"] is False:
        needed = what_it_takes(summary["target"], summary["dataset"])
        stderr.print(f"to reach {summary['target']:.2%}: {needed}", highlight=False, markup=False)
        raise typer.Exit(TARGET_MISSED_EXIT_CODE)


def _rate(text: str | None) -> float | Literal["auto"] | None:
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise UsageError(f"--lr {text}", "not a rate", "a number such as 0.01, or auto")
    return rate


def _present(data: str | None) -> str:
    if data is None:
        raise UsageError("daybreak train", "DATA is missing", "daybreak train cifar10, or --resume RUN")
    return data


def _check_resumable(context: typer.Context) -> None:
    """A run that is resumed has its own recipe, seed and place."""
    for name in (
        "recipe",
        "target",
        "dawn_rule",
        "lr",
        "seed",
        "size",
        "settings",
        "out",
        "split_seed",
        "skip_bad",
        "strict",
        "deterministic",
    ):
        if is_given(context, name):
            option = "--set" if name == "settings" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} with --resume", "the run has its own", f"without {option}, or a new run")


@app.command("lr-find", epilog="Example: daybreak lr-find cifar10 --recipe page")
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
    from daybreak import api
    from daybreak.core.config import parse_settings

    found = api.find_lr(
        data, recipe, seeds=seeds, steps=steps, lowest=lowest, highest=highest,
        device=choice("--device", device, DEVICES), settings=parse_settings(settings or []), out=out,
    )  # fmt: skip
    picture = out / "lr-find.png"
    print_result(found.as_json() | {"picture": str(picture)}, as_json, lambda: output.rates(found, picture))


@app.command(epilog="Example: daybreak bench cifar10 --recipe sprint-5 --recipe sprint --runs 5 --target 0.9")
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
    latency: Annotated[bool, typer.Option(help="Also time the test images one at a time.")] = True,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps")] = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Recipes side by side over many seeds: accuracy, spread, time to target, DAWNBench's four figures."""
    from daybreak.bench import bench as benchmark
    from daybreak.cli.progress_bar import TrainingProgress
    from daybreak.core.clock import parse_seconds

    budgets = [parse_seconds(text, "--budget") for text in budget or []]
    with TrainingProgress(stderr, quiet) as on_event:
        record = benchmark.bench(
            data, recipe or [], epochs=epochs, budgets=budgets, runs=runs, seed=seed, target=target,
            dawn_rule=dawn_rule, cost_per_hour=cost_per_hour, dawn_folder=dawn, out=out,
            device=choice("--device", device, DEVICES), latency=latency, on_event=on_event,
        )  # fmt: skip
    print_result(record, as_json, lambda: output.bench(record))
