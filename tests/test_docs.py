"""Documentation matches code and records: links resolve, commands parse, numbers are those of the records."""

import importlib
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from daybreak import cli
from daybreak.benchmarking.record import read_record
from daybreak.core.config import Recipe, override, with_epochs
from daybreak.data import Dataset, open_dataset
from daybreak.models.registry import NETS
from daybreak.recipes import RECIPES
from daybreak.runs.old_format import recipe_of

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MIN_IN_TWO_EPOCHS = 60.0  # %, as docs/nets.md states for every net
SHORT = {"model.width": 0.1, "epochs": 2, "min_steps": 0}
COMMAND = re.compile(r"^\s*(?:\$ )?(?:\.venv/bin/)?daybreak (.*)$", re.MULTILINE)


def code_of(page: Path) -> str:
    return "\n".join(re.findall(r"```(?:sh|console)?\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", page.read_text())
    local = [a or b for a, b in links if not (a or b).startswith(("http", "data:"))]
    assert not [link for link in local if not (page.parent / link).exists()]


def commands() -> list[str]:
    shown = [line for page in PAGES for line in COMMAND.findall(code_of(page))]
    examples = [c.epilog.removeprefix("Example: daybreak ") for c in get_command(cli.app).commands.values()]
    return shown + examples


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("line", commands())
def test_every_command_shown_is_one_the_parser_takes(line: str) -> None:
    name, *arguments = shlex.split(line.split(" #")[0].split(" > ")[0])
    command = get_command(cli.app).commands[name]
    with command.make_context(name, arguments, resilient_parsing=False) as context:
        assert context.params


@pytest.mark.parametrize(("shorter", "least"), [(SHORT, 0.1), pytest.param({}, 0.97, marks=pytest.mark.slow)])
def test_the_readmes_python_runs(
    shorter: dict[str, Any], least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "small", override(RECIPES["small"], shorter))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "orange").save("cat.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["run"].summary.test_acc > least


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if r.expected])
def test_a_recipe_claims_what_its_record_says(name: str) -> None:
    expected = RECIPES[name].expected
    assert expected is not None
    row = next(row for row in read_record(ROOT / expected.record)["recipes"] if row["recipe"] == name)
    assert row["test_acc_tta"]["mean"] == pytest.approx(expected.accuracy, abs=5e-5)
    std = row["test_acc_tta"]["std"]
    assert (std is None and expected.std is None) or std == pytest.approx(expected.std, abs=5e-5)
    assert row["n"] == expected.n
    assert row["train_seconds"]["mean"] == pytest.approx(expected.train_seconds, abs=0.5)
    assert row["dataset"] == expected.dataset
    used = recipe_of(row["config"])
    described = {"expected": None, "summary": used.summary}  # words, not settings
    assert used == with_epochs(RECIPES[name], expected.epochs).model_copy(update=described)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "records").glob("*/record.json")), ids=str)
def test_records_add_up(path: Path) -> None:
    record = json.loads(path.read_text())
    assert sum(row["n"] + row["failed"] for row in record["recipes"]) == len(list(path.parent.glob("*/seed-*")))
    for row in record["recipes"]:
        folders = [path.parent / row["recipe"] / f"seed-{seed}" for seed in row["seeds"]]
        summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
        finished = [s for s in summaries if s["test_acc"] is not None]
        assert (len(finished), len(summaries)) == (row["n"], row["n"] + row["failed"])
        for figure in ("test_acc", "test_acc_tta", "train_seconds"):
            assert row[figure]["values"] == [s[figure] for s in finished]
            assert row[figure]["mean"] == pytest.approx(sum(s[figure] for s in finished) / len(finished))


def test_the_readme_quotes_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generated blocks and the figure are what `python benchmarks/readme.py` writes from the records."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    readme = importlib.import_module("readme")
    for file, block, text in readme.blocks():
        found = block.search(file.read_text())
        assert found is not None
        assert found[0] == found[1] + text + found[2]
        assert found[0].count("benchmarks/records/") >= 1
    reached = dict(re.findall(r"^\| `([\w-]+)` \| `[^`]+` \| ([\d.]+)", readme.nets(), re.MULTILINE))
    assert set(reached) == set(NETS) - {"lite0", "lite2"}  # which are for photos
    assert all(float(accuracy) > MIN_IN_TWO_EPOCHS for accuracy in reached.values())
    assert readme.FIGURE.read_text() == readme.svg(readme.ladder(readme.rows()))
    assert readme.STAIRS.read_text() == readme.svg(readme.stairs_figure())


def anchored(root: Path, hardware: dict[str, Any], recipes: dict[str, float], anchors: dict[str, float]) -> Path:
    """A series of recipes and anchors with these accuracies: anchors take 100 s, recipes 50 s, 51 s and so on."""
    folder = root / "benchmarks" / "records" / "DATE_sprint"
    folder.mkdir(parents=True)
    rows = [
        {"recipe": name, "n": 1, "test_acc_tta": {"mean": accuracy, "std": None}}
        | {"train_seconds": {"mean": 50.0 + number, "std": None}, "final_evaluate_seconds": {"mean": 5.0}}
        for number, (name, accuracy) in enumerate(recipes.items())
    ]
    (folder / "record.json").write_text(json.dumps({"hardware": hardware, "recipes": rows}))
    lines = [
        {"name": name, "train_seconds": 100, "test_acc": accuracy, "test_acc_tta": accuracy, "judge_seconds": 10}
        for name, accuracy in anchors.items()
    ]
    (folder / "anchor.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    importlib.import_module("anchor").write_ratios(folder)
    return folder


KEPT = "airbench94_muon, memory kept"


@pytest.mark.parametrize(
    ("hardware", "anchors", "is_shown", "is_compared"),
    [
        ({"cpu": "c", "cores": 2}, {"airbench94_muon": 0.906, KEPT: 0.905}, True, True),
        ({"cpu": "c", "cores": 2}, {"airbench94_muon": 0.905}, False, False),  # its memory setting is not ours
        ({"cpu": "c", "cores": 2}, {KEPT: 0.95}, True, False),  # none of ours is as good
        ({"cpu": "c", "cores": 2, "gpu": "g"}, {"airbench94_muon": 0.905}, True, True),  # there is no such setting
    ],
    ids=["memory kept", "glibc's default", "better than all", "on a GPU"],
)
def test_times_are_compared_at_equal_accuracy_and_memory_setting_only(
    hardware: dict[str, Any],
    anchors: dict[str, float],
    is_shown: bool,
    is_compared: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    readme, tables = importlib.import_module("readme"), importlib.import_module("tables")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "RECORDS", tmp_path / "benchmarks" / "records")
    folder = anchored(tmp_path, hardware, {"sprint-5": 0.886, "sprint": 0.905, "marathon": 0.911}, anchors)
    assert readme.anchor_series() == [folder] * is_shown
    if is_shown:
        text = readme.against_anchor(folder)
        assert ("takes 51 s, 0.51 of its time, 0.51 with the evaluation" in text) == is_compared
        assert ("no time to equal accuracy" in text) != is_compared
        assert ("in 0.51 of its time" in readme.anchor_sentence(folder)) == is_compared


def test_the_readme_compares_no_other_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios stand in generated blocks alone; in the table of peers, results that missed their budget are named."""
    text = re.sub(r"<!-- (\w+) -->.*?<!-- end of \1 -->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert not re.findall(r"\bratio\b|of (?:its|the) time of|times (?:as fast|faster)", text)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    readme = importlib.import_module("readme")
    assert "times as fast" not in readme.peers()
    record, _ = readme.peers_record()
    for row in record["results"]:
        used = f"{row['train_seconds']['mean']:.0f} of {60 * row['minutes']:g} s"
        assert (used in readme.off_budget(record)) == bool(row["off_budget"])


@pytest.mark.parametrize("name", ["rates", "rivals"])
def test_the_tables_of_one_cycle_are_their_records(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what `python benchmarks/rates.py` and `rivals.py` wrote; failed trials are counted."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    series = importlib.import_module(name)
    (folder,) = (ROOT / "benchmarks" / "records").glob(f"*_{name}")
    found = series.BLOCK.search(series.DOCS.read_text())
    assert found is not None
    assert found[0] == found[1] + series.table(folder) + found[2]


def test_rivals_are_tried_at_their_own_best_rate_and_measured_on_seeds_that_chose_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A grid grows until its best is inside; the rate that is best on held-out images is taken to the fresh seeds."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rivals = importlib.import_module("rivals")
    done: list[tuple[float, int, int]] = []

    def pretended(_folder: Path, _name: str, recipe: Recipe, data: Dataset, seed: int) -> dict[str, float]:
        """The best peak is 0.0005, and seed 1 is lucky at 0.002."""
        peak = recipe.schedule.max_lr
        done.append((peak, seed, len(data.test.labels_N)))
        return {"accuracy": 0.9 - abs(math.log2(peak / 0.0005)) / 10 + 0.01 * (peak == 0.002) * seed}

    monkeypatch.setattr(rivals, "run_once", pretended)
    peak = rivals.best_peak(tmp_path, "digits", rivals.REFERENCE, 2)
    rivals.try_fresh(tmp_path, "digits", rivals.REFERENCE, 2, peak, seed=7)
    digits = open_dataset("digits")
    held_out, test = len(rivals.without_test(digits).test.labels_N), len(digits.test.labels_N)
    grid = (0.002, 0.004, 0.008, 0.001, 0.0005, 0.00025)
    assert held_out != test
    assert done[:12] == [(peak, seed, held_out) for peak in grid for seed in (0, 1)]
    assert done[12:] == [(0.0005, 7, test)]


def test_the_table_of_rivals_compares_seed_by_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every rival is a point ahead of the reference on each seed, but for one trial that failed."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rivals = importlib.import_module("rivals")
    rows = []
    for epochs in rivals.LENGTHS:
        for name in rivals.RIVALS:
            recipe = rivals.with_rate(rivals.recipe(name, epochs), 0.004).model_dump(mode="json", exclude={"expected"})
            for seed in rivals.FRESH:
                accuracy = 0.5 + seed / 50 + (0.01 if name != rivals.REFERENCE else 0)
                row = {"name": rivals.fresh_name(name, epochs), "seed": seed, "recipe": recipe}
                is_lost = (name, seed, epochs) == ("step decay", 2, rivals.LENGTHS[0])
                rows.append(row | ({"failed": "nan"} if is_lost else {"accuracy": accuracy}))
    (tmp_path / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    setting = {"dataset": "some", "hardware": {"cores": 2, "cpu": "a processor"}}
    (tmp_path / "setting.json").write_text(json.dumps(setting))
    lines = {line.split(" | ")[0].strip("| "): line for line in rivals.table(tmp_path).splitlines()}
    assert lines["one cycle, cosine"].count("| 0.004 | 62.00 ± 4.90 % | +1.00 (+1.00 to +1.00) ") == 2
    assert lines["one cycle, cosine"].endswith("| 0 |")
    assert "-5.87 (" in lines["step decay"]  # a failed trial counts as nothing right: (7 · 1 - 54) / 8
    assert lines["step decay"].endswith("| 1 |")
    assert "0.0 points after 4 epochs" in rivals.table(tmp_path)
    assert "deviation of 8 seeds that chose nothing" in rivals.table(tmp_path)
    assert len(rivals.draw(tmp_path).axes) == 1 + len(rivals.RIVALS)
    assert rivals.peak_of(rows, "step decay", 4) == 0.004
    some = rivals.table(tmp_path, (rivals.REFERENCE, "step decay")).splitlines()
    assert [line for line in some if line.startswith("| one") or line.startswith("| step")] == [
        lines[rivals.REFERENCE],
        lines["step decay"],
    ]


def test_the_best_of_a_grid_is_evaluated_on_fresh_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was chosen on seeds 0 and 1 is compared on 2 and 3, seed by seed; a failed trial counts as nothing right."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    rates = importlib.import_module("rates")
    old = [("net 1", 0, 0.5), ("net 1", 1, 0.7), ("net 2", 0, 0.6), ("net 2", 1, 0.5), ("net found", 0, 0.9)]
    rows = [{"name": n, "seed": s, "accuracy": a} for n, s, a in [*old, ("net found", 1, 0.9)]]
    assert rates.best_of_grid("net", rows) == "net 1"
    assert rates.to_the_best("net", rows).startswith("+30.00 points (same seeds: 2, 95 % interval ")
    new = [("net 1", 2, 0.50), ("net found", 2, 0.52), ("net 1", 3, 0.50), ("net found", 3, 0.50)]
    rows += [{"name": n, "seed": s, "accuracy": a} for n, s, a in new]
    assert rates.best_of_grid("net", rows) == "net 1"
    assert rates.to_the_best("net", rows).startswith("+1.00 points (fresh seeds: 2, 95 % interval ")
    rows += [{"name": "net found", "seed": 4, "failed": "nan"}, {"name": "net 1", "seed": 4, "accuracy": 0.01}]
    assert rates.to_the_best("net", rows).startswith("+0.33 points (fresh seeds: 3")


@pytest.mark.parametrize("promise", ["checkpoints", "deterministic"])
def test_the_price_of_a_promise_is_its_record(promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of checkpoints less than a hundredth of training, at one a minute."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    prices = importlib.import_module("prices")
    (path,) = (ROOT / "benchmarks" / "records").glob(f"*_{promise}/pairs.json")
    record = json.loads(path.read_text())
    found = prices.BLOCKS[promise].search(prices.DOCS.read_text())
    assert found is not None
    assert found[0] == found[1] + prices.line(record) + found[2]
    assert record == record | prices.price(promise, record["windows"])
    assert promise != "checkpoints" or record["share"][2] < 0.01


def test_the_table_of_faithfulness_is_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is what `python benchmarks/faithfulness.py` wrote, and its random maps are there to compare with."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    faithfulness = importlib.import_module("faithfulness")
    found = faithfulness.BLOCK.search(faithfulness.DOCS.read_text())
    (path,) = (ROOT / "benchmarks" / "records").glob("*/faithfulness.json")
    record = json.loads(path.read_text())
    assert found is not None
    assert found[0] == found[1] + faithfulness.table(record, path.parent.name) + found[2]
    methods = {row["method"] for row in record["faithfulness"]}
    assert {"random", "grad-cam", "hires-cam", "layer-cam", "grad-cam++", "eigen-cam", "score-cam"} == methods
    assert record["recipe"] == "sprint"


def test_the_rows_that_were_repeated_are_their_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """As drawn and as they came out; what the schedule reached then and again has intervals that overlap."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    repeats, rivals = importlib.import_module("repeats"), importlib.import_module("rivals")
    (folder,) = (path.parent for path in (ROOT / "benchmarks" / "records").glob("*_repeats/draw.json"))
    found = repeats.BLOCK.search(repeats.DOCS.read_text())
    assert found is not None
    assert found[0] == found[1] + repeats.table(folder) + found[2]
    then, again = (rivals.read(path) for path in (repeats.record_of("rivals", "trials.jsonl"), folder / "rivals"))
    for epochs in rivals.LENGTHS:
        (low, high), (least, most) = (
            rivals.accuracy_of(rivals.trials_of(rows, "one rate all the way", epochs))["ci95"] for rows in (then, again)
        )
        assert low <= most
        assert least <= high


def test_rows_to_repeat_are_drawn_from_all_that_have_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    repeats = importlib.import_module("repeats")
    one, same, other = (repeats.drawn(seed) for seed in ("a", "a", "b"))
    assert one == same != other
    assert sorted(one) == sorted(other)
    assert {block for _, block, _ in one} >= {"results", "stairs", "rivals", "rates", "faithfulness", "labels", "peers"}
    assert not [row for _, block, row in one if block == "repeats" or row.startswith("| ---")]


def test_the_table_of_label_errors_is_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    label_errors = importlib.import_module("label_errors")
    (record,) = (ROOT / "benchmarks" / "records").glob("*_labels/labels.json")
    found = label_errors.BLOCK.search(label_errors.DOCS.read_text())
    assert found is not None
    assert found[0] == found[1] + label_errors.table(json.loads(record.read_text())) + found[2]


@pytest.mark.filterwarnings("ignore:No positive class")  # in a draw of so few
def test_votes_judge_a_ranking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Worked out by hand: of four voted images two are wrong. The run has them first and third, so its average
    precision is (1/1 + 2/3) / 2; cleanlab has them first and second."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    label_errors = importlib.import_module("label_errors")
    monkeypatch.setattr(label_errors, "RESAMPLES", 20)
    file = tmp_path / "votes.csv"
    rows = ["test/a/0,2,0.1", "test/a/1,3,0.3", "test/b/0,0,0.2", "test/b/1,5,0.4"]
    file.write_text("image,votes_given,cleanlab_p_given\n" + "\n".join(rows) + "\n")
    votes = label_errors.read_votes(file)
    wrong_N = np.array([row["wrong"] for row in votes.values()])
    theirs_N = np.array([row["cleanlab"] for row in votes.values()])
    ours_N = np.array([0.01, 0.02, 0.03, 0.9])
    assert wrong_N.tolist() == [True, False, True, False]
    found = label_errors.judged(ours_N, wrong_N)
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["first"] == {"10": 2, "50": 2, "100": 2}
    assert label_errors.difference(ours_N, theirs_N, wrong_N)["mean"] == pytest.approx((1 + 2 / 3) / 2 - 1)
    p_given = dict(zip(votes, ours_N.tolist(), strict=True)) | {f"test/c/{n}": 0.005 for n in range(8)}
    assert label_errors.first_of_all(p_given, votes)["10"] == {"voted": 2, "wrong": 1}
