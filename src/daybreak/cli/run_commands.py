"""Verbs about a run: judge it, explain it, use it."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from daybreak.cli import output
from daybreak.cli.options import Debug, Json, MovedData, Quiet, RunDir, TtaOption, app, choice, print_result, stderr
from daybreak.core.errors import one_line


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
    chosen = loaded.directory.recipe.tta if tta is None else choice("--tta", tta, ("none", "flip", "full"))
    judged = loaded.evaluate(data, chosen)
    summary = loaded.directory.summary
    met = None if summary["target"] is None else judged.accuracy >= summary["target"]
    facts = summary | {"run": str(run)} | judged.as_json() | {"target_met": met}
    print_result(facts, as_json, lambda: output.evaluation(judged))


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
        typer.Option(metavar="CLASS", help="Show evidence for the one class and against this one ('why not dog')."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="How many misclassified images.")] = 10,
    data: MovedData = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Class activation maps of misclassified or given images, at any stage, as PNG files."""
    from daybreak import api
    from daybreak.explain.cam import METHODS

    stages, chosen = layers.split(",") if layers else None, choice("--method", method, METHODS)
    rows = api.load(run).explain(image or [], stages, n, data, chosen, target, against)
    print_result({"maps": rows}, as_json, lambda: output.maps(rows))


@app.command(epilog="Example: daybreak report runs/20261122-101502-cifar10-sprint-s0")
def report(
    run: RunDir, data: MovedData = None, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Write the run's report again: one self-contained HTML file."""
    from daybreak import api

    path = api.load(run).report(data)
    print_result({"report": str(path)}, as_json, lambda: print(path))


@app.command(epilog="Example: daybreak suspects runs/RUN --folds 4 --budget 1m")
def suspects(
    run: RunDir,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Search the training part too, with a net for each fold that never saw its images."),
    ] = None,
    budget: Annotated[str, typer.Option(metavar="TIME", help="Training time of each fold's net.")] = "1m",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the folds and their nets.")] = 0,
    data: MovedData = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Images whose labels are probably wrong, the most suspicious first. The run's report shows them."""
    from daybreak import api
    from daybreak.cli.progress_bar import TrainingProgress
    from daybreak.core.clock import parse_seconds

    with TrainingProgress(stderr, quiet) as on_event:
        found = api.load(run).suspects(folds, parse_seconds(budget, "--budget"), seed, data, on_event)
    print_result(found, as_json, lambda: output.suspects(found))


@app.command(epilog="Example: daybreak compare runs/A runs/B --out compare.html")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run directories.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("compare.html"),
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Runs side by side: what differs, which images one gets right and another wrong, and whether that is chance."""
    from daybreak import api

    found = api.compare(*runs, out=out)
    print_result(found.as_json() | {"report": str(out)}, as_json, lambda: output.comparison(found, out))


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


@app.command(epilog="Example: daybreak serve runs/20261122-101502-cifar10-sprint-s0 --port 8000")
def serve(
    run: RunDir,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """A web page for this machine alone: drop an image, see its classes and why; Ctrl-C ends it."""
    from daybreak import api

    def show_address(address: str) -> None:
        print_result({"url": address, "run": str(run)}, as_json, lambda: print(address))
        sys.stdout.flush()

    api.load(run).serve(port, show_address)
