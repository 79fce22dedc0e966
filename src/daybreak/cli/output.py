"""How results look on a terminal. Names that came from files are never read as markup."""

import logging
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from daybreak.core.errors import one_line
from daybreak.core.metrics import is_even

if TYPE_CHECKING:
    from daybreak.core.config import Expected, Recipe
    from daybreak.core.lr_curve import LrFindResult
    from daybreak.doctor import Diagnosis
    from daybreak.evaluation.compare import Comparison
    from daybreak.evaluation.evaluation import Evaluation
    from daybreak.explain.inspection import Inspection

# Elsewhere than on a terminal nothing is folded: a line of a table stays one line.
# Who sets COLUMNS wants so many columns there too.
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 400)
MAX_SUMMARY = 70  # columns of what a recipe is for
RECIPE_NUMBERS = 45  # columns of all else in the table of recipes


class _Stderr(logging.Handler):
    """Writes to the stderr of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr)


def log(quiet: bool = False) -> None:
    """Show what takes long before training starts: downloading, and decoding many images."""
    logger = logging.getLogger("daybreak")
    logger.handlers = [_Stderr()]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)


def last_line(summary: dict[str, Any], path: Path) -> str:
    """Accuracy, seconds, the run directory and its report; of an interrupted run, how to go on."""
    where = shlex.quote(str(path))
    if summary["interrupted"]:
        return f"interrupted after {summary['steps']} steps; to go on: daybreak train --resume {where}"
    report = path / "report.html"
    where += f" (report: {shlex.quote(str(report))})" if report.exists() else ""
    tta = "" if summary["tta"] == "none" else f" ({summary['test_acc_tta']:.2%} with {summary['tta']} TTA)"
    balanced = summary.get("balanced_acc")  # older runs lack it
    tta += "" if balanced is None or is_even(summary["test_acc_tta"], balanced) else f", {balanced:.2%} over classes"
    val = "" if summary.get("val_acc") is None else f" (validation {summary['val_acc']:.2%})"
    target = {None: "", True: ", target reached", False: f", below the target of {summary['target'] or 0:.2%}"}
    return (
        f"{summary['test_acc']:.2%}{tta} on {summary['dataset']}{val} in {summary['train_seconds']:.1f} s"
        f"{target[summary['target_met']]}: {where}"
    )


def evaluation(found: "Evaluation") -> None:
    one_view = f"{found.views} views; one view: {found.accuracy_of_one_view:.2%}"
    views = "one view" if found.views == 1 else one_view
    console.print(
        f"{found.accuracy:.2%} of {len(found.labels_N)} test images of {found.dataset} ({views})\n"
        f"loss {found.loss:.3f}, calibration error {found.ece:.2%}\n"
        f"over classes: balanced accuracy {found.balanced_accuracy:.2%}, macro F1 {found.macro_f1:.2%}",
        highlight=False,
    )
    table = _table("class", "images:", "precision:", "recall:", "F1:")
    for c in found.per_class:
        table.add_row(_name(c.name), str(c.images), f"{c.precision:.1%}", f"{c.recall:.1%}", f"{c.f1:.1%}")
    console.print(table)
    for true, predicted, count in found.most_confused(5):
        console.print(f"{count:>5}  {one_line(true)} taken for {one_line(predicted)}", highlight=False, markup=False)
    for note in found.notes:
        console.print(f"note: {one_line(note)}", highlight=False, markup=False)


def maps(rows: list[dict[str, Any]], sheet: Path | None) -> None:
    """The path of every map and then of the contact sheet, and notes on stderr."""
    for row in rows:
        if row["path"]:
            print(row["path"])
    if sheet:
        print(sheet)
    notes = (f"{row['path']}: {row['note']}" if row["path"] else row["note"] for row in rows if "note" in row)
    for note in dict.fromkeys(notes):
        print(f"note: {note}", file=sys.stderr)


def comparison(found: "Comparison", page: Path) -> None:
    table = _table("run", "recipe", "seed:", "test:", "with TTA:", "seconds:")
    for run, label in zip(found.runs, found.labels, strict=True):
        s = run.summary
        tta = "–" if s["test_acc_tta"] is None else f"{s['test_acc_tta']:.2%}"
        accuracy = "–" if s["test_acc"] is None else f"{s['test_acc']:.2%}"
        table.add_row(_name(label), s["recipe"], str(s["seed"]), accuracy, tta, f"{s['train_seconds']:.1f}")
    console.print(table)
    for key, values in found.differences:
        console.print(f"{key}: {' | '.join(map(one_line, values))}", highlight=False, markup=False)
    for pair in found.pairs:
        console.print(one_line(found.sentence(pair)), highlight=False, markup=False)
    print(page)


def rates(found: "LrFindResult", picture: Path, command: str) -> None:
    """What each rule suggests, how far seeds agree, the pair for one cycle, and the command that uses it."""
    table = _table("rule", "rate:", "highest over lowest seed:")
    for rule, rate in found.suggestions.items():
        table.add_row(rule, f"{rate:.3g}", f"{found.spread[rule]:.2f}")
    console.print(table)
    if found.doubt:
        print(f"no clear answer: {found.doubt}")
    else:
        print(f"one cycle: from {found.lr_min:.3g} to {found.lr_max:.3g} ({found.rule}, and a tenth of it)")
    print(f"curve: {picture}")
    print(f"{'to keep the rate of the recipe' if found.doubt else 'to train with it'}: {command}")


def exported(folder: Path, parity: Mapping[str, Any]) -> None:
    lines = [
        f"{parity['accuracy']:.2%} on {parity['images']} test images (the run: {parity['run_accuracy']:.2%}); "
        f"{parity['changed']} answers changed, probabilities differ by up to {parity['largest_difference']:.1e}"
    ]
    if "milliseconds" in parity:
        lines.append(", ".join(f"{ms:.2f} ms for {n} at a time" for n, ms in parity["milliseconds"].items()))
    print(*lines, folder, sep="\n")


def suspects(found: dict[str, Any], shown: int = 20) -> None:
    """How many labels are probably wrong in each part, how far to trust that, and the most suspicious."""
    from daybreak.suspects import heading

    for part in ("test", "validation", "train"):
        if part in found:
            print(*heading(found, part, shown), sep="\n")
            table = _table("image", "labelled", "looks like", "label's probability:")
            for row in found[part][:shown]:
                table.add_row(*map(_name, (row["file"], row["given"], row["suggested"])), f"{row['quality']:.1%}")
            console.print(table)


def inspection(found: "Inspection", picture: Path | None) -> None:
    table = _table("layer", "kind", "output:", "params:", "MACs:", "memory:", "RF:", "stride:", "centre:")
    for layer in found.layers:
        shape = "×".join(map(str, layer.output_shape))
        numbers = (f"{layer.params:,}", f"{layer.macs:,}", _kilobytes(layer.activation_bytes))
        seen = (str(layer.receptive_field), str(layer.effective_stride), f"{layer.first_centre:g}")
        table.add_row(layer.name, layer.kind, shape, *numbers, *seen)
    console.print(table)
    console.print(
        f"{found.name} at {found.image_size} px: {found.params:,} parameters, "
        f"{found.macs / 1e6:.1f} million multiply-adds (MACs), {_kilobytes(found.activation_bytes)} of activations\n"
        "RF: receptive field in px of the image; stride: px between neighbouring units; centre: of the first unit's "
        "field;\nmemory: of the output for one image in float32",
        highlight=False,
    )
    sides = (f"{stage.name} {stage.effective_side:.0f} of {stage.seen.size} px" for stage in found.stages)
    console.print(f"what counts of it, measured by gradient: {', '.join(sides)}", highlight=False)
    for warning in found.warnings:
        console.print(f"note: {warning}", highlight=False)
    if picture:
        print(picture)


def _kilobytes(count: int) -> str:
    return f"{count / 1e3:,.0f} kB"


def recipes(listed: Iterable["Recipe"]) -> None:
    """A table for all that was measured on the same data and hardware."""
    groups: dict[str, list[Recipe]] = {}
    for recipe in listed:
        groups.setdefault(_where_measured(recipe.expected), []).append(recipe)
    room = min(MAX_SUMMARY, console.width - RECIPE_NUMBERS)  # in all tables the same, so that their columns line up
    for n, (where, group) in enumerate(groups.items()):
        console.print(("" if n == 0 else "\n") + where, style="bold", highlight=False)
        table = _table("recipe", "what for", "epochs:", "accuracy:", "seconds:")
        for column, width in zip(table.columns, (15, room, 7, 8, 7), strict=True):
            column.min_width = column.max_width = width
        for recipe in group:
            table.add_row(recipe.name, recipe.summary, *_measured(recipe))
        console.print(table)


def _where_measured(e: "Expected | None") -> str:
    return "without a standard data set to measure on" if e is None else f"measured on {e.dataset}, {e.hardware}"


def _measured(recipe: "Recipe") -> tuple[str, str, str]:
    """Epochs, accuracy and seconds."""
    e = recipe.expected
    if e is None:
        return str(recipe.epochs), "", ""
    epochs = str(recipe.epochs) if e.epochs is None else f"{e.epochs} of {recipe.epochs}"
    return epochs, f"{e.accuracy:.2%}", f"{e.train_seconds:.0f}"


def bench(record: dict[str, Any]) -> None:
    """A record as a table: means with their 95 % intervals; and whether recipes differ beyond chance."""
    from daybreak.benchmarking.record import leads

    table = _table(
        "recipe", "runs:", "failed:", "accuracy (TTA):", "95 %", "seconds:", "to target:", "latency:", "USD:"
    )
    for row in record["recipes"]:
        accuracy, seconds = row["test_acc_tta"], row["train_seconds"]
        interval = accuracy["ci95"] and f"{accuracy['ci95'][0]:.2%} to {accuracy['ci95'][1]:.2%}"
        table.add_row(
            _name(row["recipe"]), str(row["n"]), str(row["failed"]), _percent(accuracy), interval or "–",
            "–" if seconds["mean"] is None else f"{seconds['mean']:.1f}", _to_target(row.get("time_to_target")),
            "–" if row["latency_ms"] is None else f"{row['latency_ms']:.2f} ms",
            "–" if row["cost_train_usd"] is None else f"{row['cost_train_usd']:.4f}",
        )  # fmt: skip
    console.print(table)
    for line in leads(record["recipes"]):
        console.print(line, highlight=False, markup=False)
    for row in (row for row in record["recipes"] if row["latency"] or row["latency_unavailable"]):
        _latency(row)
    console.print(f"record: {record['record']}", highlight=False, markup=False)


def sweep(found: dict[str, Any], shown: int = 5) -> None:
    """The best trials with their settings, and where the recipe and the page are."""
    keys = list(found["space"])
    table = _table("trial:", "validation:", *(f"{key}:" for key in keys), "epochs:", "seconds:")
    finished = sorted((row for row in found["trials"] if row["state"] == "complete"), key=lambda row: -row["val_acc"])
    for row in finished[:shown]:
        values = (f"{v:.4g}" if isinstance(v, float) else _name(str(v)) for v in map(row["settings"].get, keys))
        table.add_row(
            str(row["trial"]), f"{row['val_acc']:.2%}", *values, f"{row['epochs']:g}", f"{row['train_seconds']:.1f}"
        )
    console.print(table)
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items())
    note = "; times are of workers that shared a machine" if found["shared_machine"] else ""
    console.print(f"{len(found['trials'])} trials: {counts}{note}", highlight=False, markup=False)
    for name, path in (("recipe", found["recipe"]), ("report", found["report"]), ("to train it", found["command"])):
        console.print(f"{name}: {path}", highlight=False, markup=False)


def _latency(row: dict[str, Any]) -> None:
    """The latency of a recipe's net in each form: milliseconds of a call with so many images."""
    which = f"its latency is that of {row['latency_form']}" if row["latency_form"] else "no form answers as it does"
    console.print(
        f"{one_line(row['recipe'])}, seed {row['latency_run']['seed']}: {which}; of all forms, in ms:",
        highlight=False,
        markup=False,
    )
    table = _table("form", "images:", "median:", "p95:", "p99:", "images/s:", "changed:", "accuracy:")
    for form in row["latency"]:
        name = form["form"] if form["device"] == row["latency"][0]["device"] else f"{form['form']} ({form['device']})"
        times = (f"{form[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        answers = (f"{form['images_per_second']:,.0f}", str(form["changed_answers"]), f"{form['test_acc']:.2%}")
        table.add_row(name, str(form["batch"]), *times, *answers)
    console.print(table)
    for name, why in row["latency_unavailable"].items():
        console.print(f"note: not {name}: {why}", highlight=False, markup=False)


def _percent(figure: dict[str, Any]) -> str:
    if figure["mean"] is None:
        return "–"
    return f"{figure['mean']:.2%}" + ("" if figure["std"] is None else f" ± {figure['std']:.2%}")


def _to_target(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    median = "never" if found["median"] is None else f"{found['median']:.1f} s"
    return f"{median} ({found['reached']} of {found['n']} runs)"


def data_set(facts: dict[str, Any], notes: tuple[str, ...]) -> None:
    table = _table("class", *(f"{split}:" for split in facts["splits"]))
    for name in facts["classes"]:
        table.add_row(_name(name), *(str(split["per_class"][name]) for split in facts["splits"].values()))
    table.add_row("all", *(str(split["images"]) for split in facts["splits"].values()), style="bold")
    console.print(table)
    shown = {
        "data": facts["title"],
        "fingerprint": facts["fingerprint"][:16],
        "image side": f"{facts['image_size']} px",
    }
    shown |= {key: ", ".join(f"{v:.4f}" for v in facts[key]) for key in ("mean", "std")}
    if "validation_duplicates" in facts:
        shown["validation images also in train"] = facts["validation_duplicates"]
    shown |= {"test images also in train": facts["duplicates"], "same pixels, two labels": facts["conflicts"]}
    shown |= {"contact sheet": facts["sheet"]} if "sheet" in facts else {}
    for key, value in shown.items():
        console.print(f"{key}: {value}", highlight=False, markup=False)
    for note in notes:
        console.print(f"note: {one_line(note)}", highlight=False, markup=False)
    for sentence in facts["advice"]:
        console.print(f"advice: {one_line(sentence)}", highlight=False, markup=False)


def diagnosis(found: "Diagnosis") -> None:
    """A line per fact, then the problems."""
    for name, fact in _facts(found):
        console.print(f"{name:<12} {one_line(fact)}", highlight=False, markup=False)
    for problem in found.problems:
        console.print(f"warning: {problem}", highlight=False, markup=False)


def _facts(found: "Diagnosis") -> Iterator[tuple[str, str]]:
    m = found.machine
    yield "processor", f"{m.cpu}, {m.usable_cores} of {m.cores} cores usable, {m.cpu_capability}, load {m.load:.1f}"
    memory = "kept while training on the CPU" if m.keeps_memory else "returned to the system at once"
    total, available = _gigabytes(m.memory_bytes), _gigabytes(m.available_bytes)
    yield "memory", f"{total}, {available} available; freed memory is {memory}"
    gpus = (f"{gpu['name']}, {_gigabytes(gpu['memory_bytes'])}, {_gigabytes(gpu['free_bytes'])} free" for gpu in m.gpus)
    yield "GPU", "; ".join(gpus) or "none that PyTorch can use"
    yield "compiler", m.compiler or "none"
    for name, choice in found.auto.items():
        yield name, f"{choice.value}: {choice.why}"
    for dtype, rates in found.speed.items():
        yield "rough speed", f"{dtype}: {', '.join(f'{what} {rate:,.0f} GFLOP/s' for what, rate in rates.items())}"
    yield "versions", f"{', '.join(f'{name} {version}' for name, version in found.versions.items())}; {m.platform}"
    for name, folder in found.folders.items():
        state = "" if folder.exists else ", not there yet"
        access = "writable" if folder.writable else "read-only"
        yield name, f"{folder.path}{state}, {access}, {_gigabytes(folder.free_bytes)} free"
    for name, where in found.data_sets.items():
        yield "data set", f"{name}: {where or 'not on this machine'}"
    for name, extra in found.extras.items():
        missing = f"{', '.join(extra.missing)} not installed; {extra.install}"
        yield "extra", f"{name}: {missing if extra.missing else 'installed'}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _name(name: str) -> str:
    """A class name from a file, as text of one line."""
    return escape(one_line(name))


def _table(*columns: str) -> Table:
    """A plain table; a column whose name ends in a colon holds numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for name in columns:
        table.add_column(name.removesuffix(":"), justify="right" if name.endswith(":") else "left", overflow="fold")
    return table
