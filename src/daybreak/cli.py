"""The command line: thin verbs over `daybreak.api`. Results on stdout, everything else on stderr.

With `--json` stdout carries one JSON object and nothing else. Errors are one line on stderr, with the exit codes of
docs/exit-codes.md; `--debug` shows the traceback.
"""

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from daybreak import show
from daybreak.errors import TARGET_MISSED_EXIT_CODE, DaybreakError, UsageError, one_line

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="daybreak",
    help="Train image classifiers in the least time your hardware allows, and see why they are wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
stderr = Console(stderr=True, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="cifar10, cifar100, mnist, fashion-mnist, digits, or a folder, archive or .npz."
    ),
]
MovedData = Annotated[str | None, typer.Option("--data", help="Where the run's data is now, if it has moved.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
SplitSeed = Annotated[int, typer.Option(help="Seed of the test split, for data that has no test part.")]
Size = Annotated[
    int | None, typer.Option(metavar="PX", min=8, help="Side at which the net sees images; the data's own by default.")
]
TtaOption = Annotated[
    str | None, typer.Option("--tta", metavar="none|flip|full", help="Test-time augmentation; the recipe's by default.")
]


@app.command(epilog="Example: daybreak train cifar10 --recipe sprint --seed 0")
def train(
    data: Data,
    recipe: Annotated[
        str | None, typer.Option(help="See `daybreak recipes`; by default what fits the budget, target or data.")
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
    seed: Annotated[int, typer.Option(help="Decides initial weights, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps")] = "auto",
    size: Size = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; a new one below runs/ by default.")] = None,
    split_seed: SplitSeed = 0,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a classifier: a run directory, a report, and one last line with accuracy, seconds and the directory."""
    from daybreak import api, choice
    from daybreak.clock import parse_seconds
    from daybreak.config import parse_settings
    from daybreak.progress import TrainingProgress

    with TrainingProgress(stderr, quiet) as on_event:
        run = api.train(
            data, recipe=recipe, epochs=epochs, budget=parse_seconds(budget) if budget else None, target=target,
            dawn_rule=dawn_rule, seed=seed, device=_choice("--device", device, _DEVICES), size=size,
            settings=parse_settings(settings or []), out=out, split_seed=split_seed, report=report, on_event=on_event,
        )  # fmt: skip
    summary = run.directory.summary
    _print(summary | {"run": str(run.path)}, as_json, lambda: print(show.last_line(summary, run.path)))
    if summary["interrupted"]:
        raise typer.Exit(128 + summary["interrupted"])
    if summary["target_met"] is False:
        needed = choice.what_it_takes(summary["target"], summary["dataset"])
        stderr.print(f"to reach {summary['target']:.2%}: {needed}", highlight=False, markup=False)
        raise typer.Exit(TARGET_MISSED_EXIT_CODE)


@app.command(epilog="Example: daybreak evaluate runs/20261122-101502-cifar10-sprint-s0 --tta full")
def evaluate(
    run: RunDir,
    data: Annotated[str | None, typer.Option(help="Other data with the same classes.")] = None,
    tta: TtaOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Accuracy, a table by class, calibration error and confusion matrix."""
    from daybreak import api

    loaded = api.load(run)
    chosen = loaded.directory.recipe.tta if tta is None else _choice("--tta", tta, ("none", "flip", "full"))
    judged = loaded.evaluate(data, chosen)
    summary = loaded.directory.summary
    met = None if summary["target"] is None else judged.accuracy >= summary["target"]
    facts = summary | {"run": str(run)} | judged.as_json() | {"target_met": met}
    _print(facts, as_json, lambda: show.evaluation(judged))


@app.command(epilog="Example: daybreak explain runs/RUN --n 5 --layers layer2,layer3 --class predicted --against true")
def explain(
    run: RunDir,
    image: Annotated[
        list[str] | None, typer.Option(help="Explain this file instead of misclassified test images; repeatable.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Stages, separated by commas; all by default.")] = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="grad-cam, grad-cam++, hires-cam, layer-cam, score-cam or eigen-cam.")
    ] = "grad-cam",
    target: Annotated[
        str | None,
        typer.Option("--class", metavar="CLASS", help="Explain this class, or `predicted` or `true`; both by default."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Show what speaks for the one class and not for this one ('why not dog')."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many misclassified images.")] = 10,
    data: MovedData = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Class activation maps of misclassified or given images, at any stage, as PNG files."""
    from daybreak import api
    from daybreak.maps import METHODS

    stages, chosen = layers.split(",") if layers else None, _choice("--method", method, METHODS)
    rows = api.load(run).explain(image or [], stages, n, data, chosen, target, against)
    _print({"maps": rows}, as_json, lambda: show.maps(rows))


@app.command(epilog="Example: daybreak report runs/20261122-101502-cifar10-sprint-s0")
def report(
    run: RunDir, data: MovedData = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Write the run's report again: one self-contained HTML file."""
    from daybreak import api

    path = api.load(run).report(data)
    _print({"report": str(path)}, as_json, lambda: print(path))


@app.command(epilog="Example: daybreak predict runs/RUN cat.jpg holiday-photos/ --top 3")
def predict(
    run: RunDir,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, or - for standard input.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes an image.")] = 3,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Class probabilities of image files. With --json one object a line."""
    from daybreak import api

    for row in api.load(run).predict(*images, top=top):
        text = "  ".join(f"{t['class']} {t['probability']:.1%}" for t in row["top"])
        print(json.dumps(row) if as_json else one_line(f"{row['file']}  {text}"))


@app.command(epilog="Example: daybreak bench cifar10 --recipe sprint-5 --recipe sprint --runs 5 --target 0.9")
def bench(
    data: Data,
    recipe: Annotated[list[str] | None, typer.Option(help="A recipe to run; repeatable.")] = None,
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
    from daybreak import benchmark
    from daybreak.clock import parse_seconds
    from daybreak.progress import TrainingProgress

    try:
        with TrainingProgress(stderr, quiet) as on_event:
            record = benchmark.bench(
                data, recipe or [], budgets=[parse_seconds(b) for b in budget or []], runs=runs, seed=seed,
                target=target, dawn_rule=dawn_rule, cost_per_hour=cost_per_hour, dawn_folder=dawn, out=out,
                device=_choice("--device", device, _DEVICES), latency=latency, on_event=on_event,
            )  # fmt: skip
    except benchmark.SeriesInterruptedError as stopped:
        stderr.print(
            f"interrupted; the same command with --out {stopped.folder} goes on", highlight=False, markup=False
        )
        raise typer.Exit(128 + stopped.signal) from None
    _print(record, as_json, lambda: show.bench(record))


@app.command(epilog="Example: daybreak inspect page")
def inspect(
    what: Annotated[str, typer.Argument(metavar="RECIPE|RUN")],
    size: Size = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The layers of a net: shape, parameters, multiply-adds, receptive field, effective stride."""
    from daybreak import api

    table = api.inspect(what, size)
    _print(table.as_json(), as_json, lambda: show.inspection(table))


@app.command(epilog="Example: daybreak recipes sprint")
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe whole, as JSON.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The recipes, with what they reached when they were last measured."""
    from daybreak.recipes import RECIPES, get_recipe

    if name:
        print(get_recipe(name).model_dump_json(indent=2))
        return
    listed = {"recipes": [recipe.model_dump(mode="json") for recipe in RECIPES.values()]}
    _print(listed, as_json, lambda: show.recipes(RECIPES.values()))


@app.command(epilog="Example: daybreak data my-photos/ --sheet sheet.png")
def data(
    data: Data,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet of every class as PNG.")
    ] = None,
    size: Size = None,
    split_seed: SplitSeed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Describe and check a data set: counts, sizes, mean and deviation, duplicates across splits."""
    from daybreak.data import contact_sheet, describe, open_dataset

    opened = open_dataset(data, size=size, split_seed=split_seed)
    facts = describe(opened) | ({"sheet": str(contact_sheet(opened, sheet))} if sheet else {})
    _print(facts, as_json, lambda: show.data_set(facts, opened.notes))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the contract's code."""
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    warnings.filterwarnings(
        "ignore", ".*decompression bomb"
    )  # images too large get an error of ours, from their header
    show.log(quiet=not {"-q", "--quiet"}.isdisjoint(arguments))
    try:
        return int(app(args=arguments, standalone_mode=False) or 0)
    except DaybreakError as error:
        return _fail(error, arguments)
    except typer.TyperException as error:
        if not error.format_message():  # no command at all: the help has been shown
            return UsageError.exit_code
        what = "daybreak " + " ".join(a for a in arguments[:1] if not a.startswith("-"))
        return _fail(UsageError(what.strip(), error.format_message().rstrip("."), f"{what.strip()} --help"), arguments)
    except (KeyboardInterrupt, typer.Abort):
        stderr.print("interrupted", highlight=False)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        unexpected = DaybreakError(
            type(error).__name__, str(error) or "unexpected", "--debug, and report what it shows"
        )
        return _fail(unexpected, arguments)


def _fail(error: DaybreakError, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    print(f"error: {error}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps(error.as_json()))
    return error.exit_code


def _print(values: dict[str, Any], as_json: bool, show: Callable[[], object]) -> None:
    if as_json:
        print(json.dumps(values))
    else:
        show()


_DEVICES = ("auto", "cpu", "cuda", "mps")


def _choice(option: str, value: str, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise UsageError(f"{option} {value}", "not a choice", f"one of {', '.join(allowed)}")
    return value


if __name__ == "__main__":
    main()
