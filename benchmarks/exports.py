"""Whether exported nets answer as their runs do, and how fast, over the whole test part of a data set.

    python benchmarks/exports.py cifar10 --recipe sprint --recipe page:2 --out benchmarks/records/DATE_export

Each recipe is trained once, for so many epochs, or for a time, and at such a side in px where they are given, and
exported as ONNX in float32 and in eight bits, and as pt2. exports.json has what their parity.json says. An export that
is refused is a row with its reason. Recipes whose rows are there already are left out, so that a series can be
continued.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import daybreak
from daybreak.core.clock import parse_seconds
from daybreak.core.device import describe_hardware, versions
from daybreak.core.errors import DaybreakError
from daybreak.core.files import write_json

FORMS: tuple[tuple[str, bool], ...] = (("onnx", False), ("onnx", True), ("pt2", False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--recipe", dest="recipes", action="append", required=True, metavar="NAME[:EPOCHS|TIME[:SIZE]]")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    file = arguments.out / "exports.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rows": []}
    known = {row["recipe"] for row in found["rows"]}
    for recipe in (recipe for recipe in arguments.recipes if recipe not in known):
        found["rows"].append(row_of(arguments.data, recipe, arguments.device))
        print(json.dumps(found["rows"][-1]), flush=True)
        where = {"hardware": describe_hardware(torch.device("cpu")), "versions": versions()}
        write_json(file, found | {"data": arguments.data, "trained_on": arguments.device} | where)


def row_of(data: str, recipe: str, device: str) -> dict[str, Any]:
    name, length, size = [*recipe.split(":"), "", ""][:3]
    asked: dict[str, Any] = {"epochs": int(length)} if length.isdigit() else {}
    asked |= {"budget": parse_seconds(length, "TIME")} if length and not length.isdigit() else {}
    asked |= {"size": int(size)} if size else {}
    with tempfile.TemporaryDirectory() as folder:
        run = daybreak.train(
            data, recipe=name, device=device, seed=0, out=Path(folder) / "run", report=False, validate=0, **asked
        )
        if run.summary.interrupted:
            raise SystemExit(f"{recipe} was interrupted")
        row: dict[str, Any] = {"recipe": recipe, "params": run.summary.params, "test_acc": run.summary.test_acc}
        for form, int8 in FORMS:
            row[f"{form}-int8" if int8 else form] = _exported(run, form, int8)
    return row


def _exported(run: daybreak.Run, form: str, int8: bool) -> dict[str, Any]:
    try:
        bundle = run.export(form, int8=int8)  # type: ignore[arg-type]
    except DaybreakError as error:
        return {"refused": f"{error.why}; try: {error.remedy}"}
    found: dict[str, Any] = json.loads((bundle / "parity.json").read_text())
    return found


if __name__ == "__main__":
    main()
