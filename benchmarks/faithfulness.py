"""Are the maps of a run faithful? Deletion, insertion and ROAD on its test images, the pointing game on drawn shapes.

    daybreak train cifar10 --recipe sprint --out runs/sprint
    python benchmarks/faithfulness.py runs/sprint --out benchmarks/records/DATE_faithfulness

Every method at every stage, beside maps of random numbers at the same resolution, each mean with its deviation over
three draws of test images. The pointing game trains the run's own recipe on shapes whose places are known
(tests/shapes.py) and asks it, and the same net with fresh weights, where they are. The table goes into
docs/explanation.md, which a test holds equal to the record.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import between, hardware

from daybreak.benchmarking.record import spread
from daybreak.core.config import Recipe, override
from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json
from daybreak.core.options import TrainOptions
from daybreak.data import open_dataset
from daybreak.explain.cam import METHODS
from daybreak.explain.faithfulness import pointing_game, random_maps, scores
from daybreak.explain.maps import MapOptions, explain
from daybreak.models.registry import build_net, stages_of
from daybreak.runs.classifier import Classifier
from daybreak.runs.datasets import run_dataset
from daybreak.runs.directory import RunDirectory
from daybreak.training.train import train

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from shapes import CLASSES, OBJECT, SIDE, Shapes, shapes  # noqa: E402 - it is the tests' own data set

DOCS = ROOT / "docs" / "explanation.md"
BLOCK = between("faithfulness")
RANDOM = "random"
SEEDS, IMAGES = 3, 100
SLOW = ("score-cam",)  # a forward for each channel: at the last stage only
SHAPES = {"epochs": 6, "batch_size": 100, "precision": "float32"}

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    run = RunDirectory.open(arguments.run)
    rows = [score_row(run, method, layer) for layer, method in asked(run)]
    record = {
        "recipe": run.recipe.name,
        "seed": run.summary["seed"],
        "dataset": run.summary["dataset"],
        "test_acc": run.summary["test_acc"],
        "images": IMAGES,
        "seeds": SEEDS,
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": versions(),
        "faithfulness": rows,
        "pointing": pointing_rows(run.recipe),
        "chance": OBJECT**2 / SIDE**2,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "faithfulness.json", record)
    DOCS.write_text(BLOCK.sub(lambda m: m[1] + table(record, arguments.out.name) + m[2], DOCS.read_text()))
    print(table(record, arguments.out.name))


def asked(run: RunDirectory) -> list[tuple[str, str]]:
    """Stages and methods; the first stage is the image itself, nearly, and left out."""
    stages = list(stages_of(run.classifier("cpu").net))[1:]
    return [(s, m) for s in stages for m in (*METHODS, RANDOM) if s == stages[-1] or m not in SLOW]


def score_row(run: RunDirectory, method: str, layer: str) -> Row:
    """Scores of one kind of map for the predicted class, over three draws of test images."""
    print(f"{method} at {layer}", file=sys.stderr, flush=True)
    classifier, images_NHWC = run.classifier("cpu"), run_dataset(run).test.images_NHWC
    found = []
    for seed in range(SEEDS):
        chosen = np.sort(np.random.default_rng(seed).choice(len(images_NHWC), IMAGES, replace=False))
        pixels = np.asarray(images_NHWC[chosen])
        target_N = classifier.logits(pixels).argmax(1)
        maps = maps_of(classifier, pixels, target_N, "grad-cam" if method == RANDOM else method, layer)
        found.append(scores(classifier, pixels, random_maps(maps, seed) if method == RANDOM else maps, target_N))
    figures = {key: spread([getattr(s, key) for s in found]) for key in ("deletion", "insertion", "road")}
    return {"method": method, "layer": layer} | figures


def pointing_rows(recipe: Recipe) -> list[Row]:
    """Share of maps whose highest point lies on the object, at the stage before the last (the last has 3×3 cells)."""
    rows: dict[str, dict[str, list[float]]] = {m: {"trained": [], "untrained": []} for m in METHODS if m not in SLOW}
    for seed in range(SEEDS):
        print(f"shapes, seed {seed}", file=sys.stderr, flush=True)
        trained = net_of_shapes(recipe, seed)
        asked_of = shapes(300, seed=100 + seed)
        for kind, classifier in (("trained", trained), ("untrained", forgetful(trained, recipe, seed))):
            layer = list(stages_of(classifier.net))[-2]
            for method, row in rows.items():
                maps = maps_of(classifier, asked_of.images_NHWC, asked_of.labels_N, method, layer)
                row[kind].append(float(pointing_game(maps, asked_of.boxes_N4, SIDE).mean()))
    return [{"method": m} | {kind: spread(values) for kind, values in row.items()} for m, row in rows.items()]


def net_of_shapes(recipe: Recipe, seed: int) -> Classifier:
    def part(n: int, number: int) -> Shapes:
        return shapes(n, seed=10 * seed + number)

    known, test = part(3000, 0), part(300, 1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "shapes.npz"
        np.savez(data, x_train=known.images_NHWC, y_train=known.labels_N, x_test=test.images_NHWC, y_test=test.labels_N)
        run = train(
            override(recipe, SHAPES), open_dataset(data), Path(folder) / "run", TrainOptions(seed=seed, device="cpu")
        )
        return run.classifier("cpu")


def forgetful(classifier: Classifier, recipe: Recipe, seed: int) -> Classifier:
    """The same net with fresh weights."""
    torch.manual_seed(seed)
    return replace(classifier, net=build_net(recipe.model, len(CLASSES), 3).eval())


def maps_of(
    classifier: Classifier, images_NHWC: np.ndarray, target_N: np.ndarray, method: str, layer: str
) -> np.ndarray:
    options = MapOptions([layer], method)  # type: ignore[arg-type]
    return np.stack([m.values_HW for m in explain(classifier, images_NHWC, target_N[:, None], options)])


def table(record: Row, name: str) -> str:
    """The record as Markdown; `name`: its folder's."""
    facts = f"`{record['recipe']}` on {record['dataset']}, seed {record['seed']} "
    facts += f"({100 * record['test_acc']:.2f} % with one view), "
    facts += f"{record['seeds']} samples of {record['images']} test images, predicted class; mean ± standard deviation:"
    head = ["| stage | map | deletion ↓ | insertion ↑ | ROAD ↑ |", "| --- " * 5 + "|"]
    lines = [
        f"| {row['layer']} | {row['method']} | "
        + " | ".join(shown(row[k]) for k in ("deletion", "insertion", "road"))
        + " |"
        for row in record["faithfulness"]
    ]
    pointing = [
        f"\nThe pointing game on drawn shapes (chance: {100 * record['chance']:.1f} %), {record['seeds']} seeds:\n",
        "| map | trained net | the same net, random weights |",
        "| --- " * 3 + "|",
        *(
            f"| {r['method']} | {shown(r['trained'], 100)} % | {shown(r['untrained'], 100)} % |"
            for r in record["pointing"]
        ),
    ]
    where = f"\n{hardware(record['hardware'])}; record `benchmarks/records/{name}`."
    return "\n".join([facts + "\n", *head, *lines, *pointing, where]) + "\n"


def shown(figure: Row, factor: float = 1) -> str:
    digits = 3 if factor == 1 else 1
    return f"{factor * figure['mean']:.{digits}f} ± {factor * (figure['std'] or 0):.{digits}f}"


if __name__ == "__main__":
    main()
