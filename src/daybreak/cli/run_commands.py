"""Commands that work on a finished run: evaluate, explain, report, suspects, compare, predict, export.

Some take a bundle as well, which needs no torch: then none is imported.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daybreak.cli import output
from daybreak.cli.options import (
    LOOK,
    USE,
    Debug,
    Json,
    MovedData,
    NetOption,
    Quiet,
    RunDir,
    TtaOption,
    announce,
    app,
    choice,
    print_result,
    stderr,
)
from daybreak.core.errors import UsageError, one_line

if TYPE_CHECKING:
    from daybreak.export.bundle import Bundle


@app.command(
    rich_help_panel=LOOK, epilog="Example: daybreak evaluate runs/20261122-101502-cifar10-sprint-s0 --tta full"
)
def evaluate(
    run: RunDir,
    data: Annotated[str | None, typer.Option(help="Evaluate on the test part of other data.")] = None,
    tta: TtaOption = None,
    net: NetOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Evaluate a run or a bundle: accuracy, metrics per class, calibration error and confusion matrix."""
    announce(f"opening {run}", quiet)
    from daybreak.export.bundle import is_bundle

    if is_bundle(run):
        _only_for_runs(run, {"--tta": tta})
        found = open_bundle(run, net).evaluate(data)
        print_result({"bundle": str(run)} | found.as_json(), as_json, lambda: output.evaluation(found))
        return
    from daybreak import api

    loaded = api.load(run, net)
    chosen = loaded.directory.recipe.tta if tta is None else choice("--tta", tta, ("none", "flip", "full"))
    evaluation = loaded.evaluate(data, chosen)
    summary = loaded.directory.summary
    met = None if summary["target"] is None else evaluation.accuracy >= summary["target"]
    facts = summary | {"run": str(run)} | evaluation.as_json() | {"target_met": met}
    facts |= {} if data is None else {"val_acc": None}  # which is of the run's own data
    print_result(facts, as_json, lambda: output.evaluation(evaluation))


@app.command(
    rich_help_panel=LOOK,
    epilog="Example: daybreak explain runs/RUN --n 5 --layers layer2,layer3 --class predicted --against true",
)
def explain(
    run: RunDir,
    image: Annotated[
        list[str] | None, typer.Option(help="Explain this file instead of misclassified test images; repeatable.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Stages to explain, separated by commas; all by default.")] = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="grad-cam, grad-cam++, hires-cam, layer-cam, score-cam or eigen-cam.")
    ] = "grad-cam",
    target: Annotated[
        str | None,
        typer.Option("--class", metavar="CLASS", help="Explain this class, `predicted` or `true`; default: both."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="Explain the class against this one ('why cat and not dog')."),
    ] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="CLASS CLASS", help="Only mistakes in which one of these two was taken for the other."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of misclassified images.")] = 10,
    data: MovedData = None,
    net: NetOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write class activation maps of misclassified or given images as PNG files, and a contact sheet of them all."""
    announce(f"opening run {run}", quiet)
    from daybreak import api
    from daybreak.explain.cam import METHODS
    from daybreak.explain.sheet import SHEET

    stages, chosen = layers.split(",") if layers else None, choice("--method", method, METHODS)
    rows = api.load(run, net).explain(image or [], stages, n, data, chosen, target, against, between or ())
    sheet = run / SHEET if rows else None
    print_result({"maps": rows, "sheet": sheet and str(sheet)}, as_json, lambda: output.maps(rows, sheet))


@app.command(rich_help_panel=LOOK, epilog="Example: daybreak report runs/20261122-101502-cifar10-sprint-s0")
def report(
    run: RunDir,
    data: MovedData = None,
    net: NetOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the report of a run again: one self-contained HTML file."""
    announce(f"writing the report of {run}", quiet)
    from daybreak import api

    path = api.load(run, net).report(data)
    print_result({"report": str(path)}, as_json, lambda: print(path))


@app.command(rich_help_panel=LOOK, epilog="Example: daybreak suspects runs/RUN --folds 4 --budget 1m")
def suspects(
    run: RunDir,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Check the training part too, by cross-validation with this many folds."),
    ] = None,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="Training time per fold. (Heads on features take seconds.)")
    ] = "1m",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the folds and of their nets.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the folds, and this machine's cores.")] = 1,
    data: MovedData = None,
    net: NetOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List suspect labels: those that are probably wrong, most suspicious first. The report shows them too, where the
    net is good enough."""
    announce(f"opening run {run}", quiet)
    from daybreak import api
    from daybreak.cli.progress_bar import TrainingProgress
    from daybreak.core.clock import parse_seconds

    with TrainingProgress(stderr, quiet) as on_event:
        found = api.load(run, net).suspects(folds, parse_seconds(budget, "--budget"), seed, data, on_event, workers)
    print_result(found, as_json, lambda: output.suspects(found))


@app.command(rich_help_panel=LOOK, epilog="Example: daybreak compare runs/A runs/B --out compare.html")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run directories.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path("compare.html"),
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare runs: settings, accuracy, images that only one of them gets right, and whether that is chance."""
    announce(f"comparing {len(runs)} runs", quiet)
    from daybreak import api

    found = api.compare(*runs, out=out)
    print_result(found.as_json() | {"report": str(out)}, as_json, lambda: output.comparison(found, out))


@app.command(rich_help_panel=USE, epilog="Example: daybreak predict runs/RUN cat.jpg holiday-photos/ --top 3")
def predict(
    run: RunDir,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, or - for standard input.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes per image.")] = 3,
    reject: Annotated[
        float | None, typer.Option(metavar="P", help="Call an image unknown if no class has this probability.")
    ] = None,
    net: NetOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Class probabilities of image files, by a run or a bundle, as they come. With --json, one object per line."""
    for row in _predicted(run, net, images, top, reject):
        unknown = "unknown: " if row.get("unknown") else ""
        text = "  ".join(f"{t['class']} {t['probability']:.1%}" for t in row["top"])
        print(json.dumps(row) if as_json else one_line(f"{row['file']}  {unknown}{text}"), flush=True)


def _predicted(
    run: Path, net: str | None, images: list[str], top: int, reject: float | None
) -> Iterator[dict[str, Any]]:
    from daybreak.export.bundle import is_bundle

    if is_bundle(run):
        return open_bundle(run, net).predict(images, top=top, reject=reject)
    from daybreak import api
    from daybreak.evaluation.predict import predict as predict_each

    return predict_each(api.load(run, net).directory, images, top=top, reject=reject)


def open_bundle(path: Path, net: str | None) -> "Bundle":
    """A bundle to ask. Only one in the hub's layout needs torch, and can be of a net of somebody's own.

    Raises:
        UsageError: a net was named for another bundle.
        RunError: see `Bundle.open`.
    """
    from daybreak.export.bundle import Bundle, is_hub

    if not is_hub(path):
        _only_for_runs(path, {"--net": net})
        return Bundle.open(path)
    from daybreak.export.hub import HubBundle
    from daybreak.training.extensions import Given

    return HubBundle.open(path, Given(net).extensions().net)


def _only_for_runs(bundle: Path, options: dict[str, str | None]) -> None:
    """
    Raises:
        UsageError: an option was given that a bundle does not have.
    """
    for name, value in options.items():
        if value is not None:
            raise UsageError(
                f"{name} {value}", f"{bundle} is a bundle, whose net is as it was exported", "leave it out"
            )


@app.command(rich_help_panel=USE, epilog="Example: daybreak export runs/RUN --format onnx --int8 --out cats")
def export(
    run: RunDir,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="onnx (default), pt2 (torch.export), safetensors (weights), hub."
        ),
    ] = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="The folder layout of the Hugging Face hub and of timm: --format hub.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Eight-bit convolutions, calibrated on training images.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to make; by default bundle-FORMAT in the run.")
    ] = None,
    license: Annotated[str, typer.Option(metavar="ID", help="Licence of the weights, for the model card.")] = "unknown",
    data: MovedData = None,
    net: NetOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a bundle: the model with its preprocessing, a model card, and proof that it answers as the run does."""
    announce(f"exporting {run}", quiet)
    from daybreak import api
    from daybreak.export.write import FORMS

    if hub and form not in (None, "safetensors", "hub"):
        raise UsageError(f"--hub --format {form}", "the hub's layout has its own format, safetensors", "one of the two")
    chosen = choice("--format", "hub" if hub else form or "onnx", FORMS)
    folder = api.load(run, net).export(chosen, int8=int8, out=out, data=data, license=license)
    parity = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    print_result({"bundle": str(folder)} | parity, as_json, lambda: output.exported(folder, parity))
