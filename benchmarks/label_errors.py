"""Do the suspect labels of a run hold before people? Its test images against votes on labels that others suspected.

    python benchmarks/label_errors.py runs/RUN --votes cifar10-test-label-votes.csv --out benchmarks/records/DATE_labels

The votes are on the 275 test images of CIFAR-10 whose labels cleanlab 1.0 suspected, by five people each (Northcutt,
Athalye & Mueller 2021). A label is wrong where most did not vote for it. Those images are ranked by the probability of
the given label, as each run sees it and as cleanlab's net did when it published its suspects. Nobody voted on the
others, so of a run's own first suspects only those among the 275 can be judged. The table goes into
docs/explanation.md.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from tables import between

from daybreak.core import metrics
from daybreak.core.device import describe_hardware, versions
from daybreak.core.files import write_json, write_text
from daybreak.evaluation.evaluate import evaluate
from daybreak.evaluation.evaluation import Evaluation
from daybreak.runs.directory import RunDirectory

DOCS = Path(__file__).parents[1] / "docs" / "explanation.md"
BLOCK = between("labels")
FIRST, MAJORITY = (10, 50, 100), 3
RESAMPLES = 2_000

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+")
    parser.add_argument("--votes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    votes = read_votes(arguments.votes)
    wrong_N = np.array([row["wrong"] for row in votes.values()])
    theirs_N = np.array([row["cleanlab"] for row in votes.values()])
    record = {
        "hardware": describe_hardware(torch.device("cpu")),
        "versions": versions(),
        "voted": len(votes),
        "wrong": int(wrong_N.sum()),
        "runs": [judged_run(RunDirectory.open(path), votes, theirs_N, wrong_N) for path in arguments.run],
        "cleanlab": judged(theirs_N, wrong_N),
        "record": arguments.out.name,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "labels.json", record)
    write_text(DOCS, BLOCK.sub(lambda m: m[1] + table(record) + m[2], DOCS.read_text()))
    print(table(record))


def judged_run(run: RunDirectory, votes: dict[str, Row], theirs_N: np.ndarray, wrong_N: np.ndarray) -> Row:
    evaluation = evaluate(run)
    p_given = given_probabilities(evaluation)
    ours_N = np.array([p_given[image] for image in votes])
    facts = {key: run.summary[key] for key in ("recipe", "dataset")} | {"seed": run.options.seed}
    facts["test_acc"] = evaluation.accuracy
    return (
        facts
        | judged(ours_N, wrong_N)
        | {
            "ahead_of_cleanlab": difference(ours_N, theirs_N, wrong_N),
            "whole_test_part": first_of_all(p_given, votes),
        }
    )


def read_votes(path: Path) -> dict[str, Row]:
    """By image, as in test/cat/0000."""
    with path.open(newline="") as file:
        return {
            row["image"]: {"wrong": int(row["votes_given"]) < MAJORITY, "cleanlab": float(row["cleanlab_p_given"])}
            for row in csv.DictReader(file)
        }


def given_probabilities(evaluation: Evaluation) -> dict[str, float]:
    """Of each test image's label, as the net sees it, by the image's name in the votes."""
    probability_NK = metrics.softmax(evaluation.logits_NK)
    given_N = probability_NK[np.arange(len(probability_NK)), evaluation.labels_N]
    names = [str(Path(name).with_suffix("")) for name in evaluation.predictions.names]
    return {f"test/{name.removeprefix('test/')}": float(p) for name, p in zip(names, given_N, strict=True)}


def judged(given_N: np.ndarray, wrong_N: np.ndarray) -> Row:
    """Average precision with its 95 % interval over resampled images, and how many of the first are wrong."""
    order = np.argsort(given_N, kind="stable")
    found = resampled(lambda chosen: average_precision(given_N[chosen], wrong_N[chosen]), len(wrong_N))
    return {
        "average_precision": average_precision(given_N, wrong_N),
        "ci95": found,
        "first": {str(n): int(wrong_N[order[:n]].sum()) for n in FIRST},
    }


def average_precision(given_N: np.ndarray, wrong_N: np.ndarray) -> float:
    return float(average_precision_score(wrong_N, -given_N))


def difference(ours_N: np.ndarray, theirs_N: np.ndarray, wrong_N: np.ndarray) -> Row:
    """Our average precision minus theirs, on the same resampled images."""

    def ahead(chosen: Any) -> float:
        wrong = wrong_N[chosen]
        return average_precision(ours_N[chosen], wrong) - average_precision(theirs_N[chosen], wrong)

    return {"mean": ahead(slice(None)), "ci95": resampled(ahead, len(wrong_N))}


def resampled(figure: Any, n: int) -> list[float]:
    """The 95 % interval of a figure over images drawn with replacement."""
    rng = np.random.default_rng(0)
    return [float(q) for q in np.percentile([figure(rng.integers(n, size=n)) for _ in range(RESAMPLES)], (2.5, 97.5))]


def first_of_all(p_given: dict[str, float], votes: dict[str, Row]) -> dict[str, Row]:
    """Of the first suspects among all test images: how many were voted on, and found wrong."""
    order = sorted(p_given, key=lambda image: p_given[image])
    asked = {n: [image for image in order[:n] if image in votes] for n in FIRST}
    return {str(n): {"voted": len(of), "wrong": sum(votes[i]["wrong"] for i in of)} for n, of in asked.items()}


def table(record: Row) -> str:
    """The record as Markdown."""
    voted, wrong = record["voted"], record["wrong"]
    head = ["ranked by", "average precision", "minus cleanlab's", *(f"wrong among the first {n}" for n in FIRST)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for run in record["runs"]:
        name = f"`{run['recipe']}`, {100 * run['test_acc']:.2f} % (seed {run['seed']})"
        ahead = run["ahead_of_cleanlab"]
        lines.append(row_of(name, run, f"{ahead['mean']:+.2f} ({between_words(ahead['ci95'], '+')})"))
    lines.append(row_of("cleanlab 1.0, as published", record["cleanlab"], ""))
    lines.append(f"| chance | {wrong / voted:.2f} | | {' | '.join(f'{n * wrong / voted:.0f}' for n in FIRST)} |")
    best = max(record["runs"], key=lambda run: run["test_acc"])
    first = "; ".join(
        f"of the first {n}, {row['voted']} were voted on, of which {row['wrong']} are wrong"
        for n, row in best["whole_test_part"].items()
    )
    hardware = record["hardware"]
    words = [
        f"{best['dataset']}, {voted} images of which {wrong} are wrong, 95 % intervals over images; one run each, on",
        f"{hardware['cores']} cores, {hardware['cpu']}. Record `benchmarks/records/{record['record']}`.",
        "",
        f"Of `{best['recipe']}`'s own suspects among all test images: {first}.",
    ]
    return "\n".join([*lines, "", *words]) + "\n"


def row_of(name: str, row: Row, ahead: str) -> str:
    precision = f"{row['average_precision']:.2f} ({between_words(row['ci95'])})"
    return f"| {name} | {precision} | {ahead} | {' | '.join(str(n) for n in row['first'].values())} |"


def between_words(interval: list[float], sign: str = "") -> str:
    return f"{interval[0]:{sign}.2f} to {interval[1]:{sign}.2f}"


if __name__ == "__main__":
    main()
