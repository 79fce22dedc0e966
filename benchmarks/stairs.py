"""From a student's write-up of Page's net to `sprint`, one change at a time: what each piece is worth.

    python benchmarks/stairs.py cifar10 --runs 2 --out benchmarks/records/DATE_stairs

Every step keeps the changes of those above it. A record like that of `daybreak bench`; runs that are there already are
not repeated.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daybreak.benchmarking.bench import bench
from daybreak.core.config import Recipe, override
from daybreak.recipes import get_recipe, to_toml


@dataclass(frozen=True)
class Step:
    """A change, in the words of a table, and what it sets in the recipe of the step above or in another recipe."""

    name: str
    change: str
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None


MUON = {
    "optimizer.name": "muon",
    "schedule.max_lr": 0.14,
    "schedule.initial_lr": 0.014,
    "schedule.final_lr": 0.0,
    "schedule.momentum": None,
}
FALLING = {"schedule.initial_lr": 0.14, "schedule.warmup": 0.0}
SPRINT_NET = {"model": {"name": "sprint", "channels": (48, 256, 256), "padded": True, "activation": "silu"}}
STEPS = (
    Step("1-mistake", "the student's write-up: softmax before the loss, a rate far too low", recipe="page-mistake"),
    Step("2-page", "cross-entropy of the logits, the rates that a range test finds", recipe="page"),
    Step("3-to-zero", "the rate falls to zero", {"schedule.final_lr": 0.0}),
    Step("4-smooth", "label smoothing 0.1", {"label_smoothing": 0.1}),
    Step("5-alternating", "every image mirrored in every other epoch", {"augment.flip": "alternating"}),
    Step("6-muon", "Muon for the filters, Adam for the rest", MUON),
    Step("7-falling", "no warm-up", FALLING),
    Step("8-net", "the sprint net: whitening, identity filters, SiLU, SGD for biases and head", SPRINT_NET),
    Step(
        "9-light",
        "less augmentation: crop 2, no cutout, brightness and contrast",
        {"augment": {"crop": 2, "flip": "alternating", "brightness": 0.14, "contrast": 0.13}},
    ),
    Step("10-short", "ten epochs instead of 24", {"epochs": 10}),
    Step("11-sizes", "three tenths of the steps at half the size", {"resolution": get_recipe("sprint").resolution}),
)


def recipes() -> list[Recipe]:
    """The recipe of every step."""
    found: list[Recipe] = []
    for step in STEPS:
        recipe = get_recipe(step.recipe) if step.recipe else found[-1]
        settings = {key: value for key, value in step.settings.items() if key not in ("model", "augment", "resolution")}
        whole = {key: value for key, value in step.settings.items() if key not in settings}
        changed = Recipe.model_validate(override(recipe, settings).model_dump() | whole | {"expected": None})
        found.append(changed.model_copy(update={"name": step.name, "summary": step.change}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="of the steps")
    arguments = parser.parse_args()
    asked = [recipe for recipe in recipes() if not arguments.only or recipe.name in arguments.only]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{recipe.name}.toml" for recipe in asked]
        for path, recipe in zip(paths, asked, strict=True):
            path.write_text(to_toml(recipe), encoding="utf-8")
        record = bench(
            arguments.data, [str(path) for path in paths], runs=arguments.runs, out=arguments.out,
            device=arguments.device, latency="none",
        )  # fmt: skip
    for row in sorted(record["recipes"], key=lambda row: int(row["recipe"].split("-")[0])):
        figures = {key: row[key]["mean"] for key in ("test_acc", "test_acc_tta", "train_seconds")}
        print(json.dumps({"step": row["recipe"], "n": row["n"], **figures}))


if __name__ == "__main__":
    main()
