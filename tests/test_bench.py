"""Records, time to target, DAWNBench's files, and choosing a recipe."""

import importlib
import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from daybreak.benchmarking import bench as benchmark
from daybreak.benchmarking import dawnbench
from daybreak.benchmarking.latency import measure
from daybreak.benchmarking.record import _time_to, keep_evidence, leads, make_record, spread, time_to_target
from daybreak.core.clock import Stopwatch
from daybreak.core.config import Expected, Recipe, Stage, override
from daybreak.core.errors import NonFiniteError, RunError, StoppedError, UsageError
from daybreak.core.nets import net_config
from daybreak.core.options import TrainOptions
from daybreak.core.timing import Effort
from daybreak.data import Dataset
from daybreak.models.anatomy.folding import fold_batch_norms
from daybreak.models.registry import build_net
from daybreak.recipes import LADDER, RECIPES, to_toml
from daybreak.recipes.measured import measured
from daybreak.runs.directory import RunDirectory
from daybreak.training import recipe_choice
from daybreak.training.recipe_choice import promise
from daybreak.training.session import Session, prepare

CPU = torch.device("cpu")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> Any:
    """The module of a script in benchmarks/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


def test_spread_of_known_values() -> None:
    found = spread([1.0, 2.0, 3.0, 4.0])
    assert found["mean"] == 2.5
    assert found["std"] == pytest.approx(1.2909944)
    # Student's t for 3 degrees of freedom at 97.5 %: 3.182446
    assert found["ci95"] == pytest.approx([2.5 - 3.182446 * 1.2909944 / 2, 2.5 + 3.182446 * 1.2909944 / 2], rel=1e-6)
    assert spread([5.0])["std"] is None
    assert spread([])["mean"] is None


def test_a_run_that_misses_the_target_counts_as_infinite() -> None:
    found = time_to_target([10.0, None, 30.0], 0.9, dawn_rule=False)
    assert (found["n"], found["reached"], found["mean"], found["median"]) == (3, 2, None, 30.0)
    assert time_to_target([10.0, None], 0.9, dawn_rule=False)["median"] is None
    assert time_to_target([10.0, 20.0], 0.9, dawn_rule=False)["mean"] == 15.0


# The published entry of ResNet-164 on 16 vCPUs: 75.35224573 ms at 0.533 USD an hour cost 1.1156318603913891e-05 USD
# (stanford-futuredata/dawn-bench-entries, CIFAR10/inference/dawn_resnet164_b_16vCPUs-gc_pytorch.json).
def test_the_cost_of_an_image_is_that_of_a_published_entry() -> None:
    assert dawnbench.inference_cost(75.35224573, 0.533) == pytest.approx(1.1156318603913891e-05, rel=1e-12)


def test_the_cost_of_training_is_hours_times_price() -> None:
    assert dawnbench.training_cost(7200, 0.9) == pytest.approx(1.8)


def test_the_log_is_in_the_published_format() -> None:
    rows = [{"epoch": 1, "train_seconds": 258.0, "test_acc": 0.3357}, {"epoch": 2, "train_seconds": 526, "test_acc": 1}]
    # The README's example: 1 <tab> 0.07166666666666667 <tab> 33.57
    assert dawnbench.tsv(rows).splitlines()[:2] == ["epoch\thours\ttop1Accuracy", "1\t0.07166666666666667\t33.57"]
    assert dawnbench.tsv(rows).endswith("\n")


# Fields as the README of the entries lists them; optional ones may be missing.
TRAIN_FIELDS = {"version", "author", "authorEmail", "framework", "model", "hardware", "timestamp"}
OPTIONAL = {"codeURL", "costPerHour", "logFilename", "misc"}
INFERENCE_FIELDS = TRAIN_FIELDS | {"latency", "cost", "top1Accuracy"}

QUICK = {"model.width": 0.1, "epochs": 2, "min_steps": 0, "precision": "float32"}


@pytest.fixture
def quick_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        changed = override(RECIPES["small"], QUICK).model_copy(update={"name": name})
        monkeypatch.setitem(RECIPES, name, changed)
    monkeypatch.setattr(benchmark, "measure", partial(measure, effort=Effort(5, 0.0, 1.0, 0.0)))


@pytest.mark.usefixtures("quick_recipes")
def test_a_bench_is_interleaved_and_leaves_a_record_and_dawnbench_files(tmp_path: Path) -> None:
    events: list[tuple[str, int]] = []
    out, entries = tmp_path / "record", tmp_path / "dawn"

    def watch(event: dict) -> None:  # type: ignore[type-arg]
        if event["event"] == "run":
            events.append((event["label"], event["seed"]))

    record = benchmark.bench(
        "digits", ["one", "two"], runs=2, seed=3, target=0.01, cost_per_hour=3.6, dawn_folder=entries, out=out,
        device="cpu", on_event=watch,
    )  # fmt: skip
    assert events == [("one", 3), ("two", 3), ("one", 4), ("two", 4)]
    assert json.loads((out / "record.json").read_text()) | {"record": str(out)} == record
    for row in record["recipes"]:
        summaries = [json.loads(p.read_text()) for p in sorted((out / row["recipe"]).glob("seed-*/summary.json"))]
        assert row["n"] == 2
        assert row["failed"] == 0
        assert row["test_acc"]["values"] == [s["test_acc"] for s in summaries]
        seconds = [s["train_seconds"] for s in summaries]
        assert row["time_to_target"]["mean"] == pytest.approx(sum(seconds) / 2)
        assert row["cost_train_usd"] == pytest.approx(sum(seconds) / 2 / 1000)
        assert row["cost_inference_usd"] == pytest.approx(row["latency_ms"] / 1e6)
        assert {(found["form"], found["batch"]) for found in row["latency"]} == {
            ("eager", 1), ("eager", 64), ("folded", 1), ("folded", 64),
        }  # fmt: skip
    assert record["hardware"]["threads"] == torch.get_num_threads()
    assert "clock" in record
    assert not list(out.rglob("model.safetensors"))  # a record is evidence, not weights
    check_entries(entries)


def check_entries(entries: Path) -> None:
    train = sorted((entries / "train").glob("*.json"))
    assert len(train) == len(list((entries / "train").glob("*.tsv"))) == 4
    for path in train:
        fields = set(json.loads(path.read_text()))
        assert TRAIN_FIELDS <= fields <= TRAIN_FIELDS | OPTIONAL
        header, *rows = path.with_suffix(".tsv").read_text().splitlines()
        assert header == "epoch\thours\ttop1Accuracy"
        assert [int(row.split("\t")[0]) for row in rows] == [1, 2]
    inference = sorted((entries / "inference").glob("*.json"))
    assert len(inference) == 2
    for path in inference:
        assert INFERENCE_FIELDS <= set(json.loads(path.read_text())) <= INFERENCE_FIELDS | OPTIONAL


@pytest.mark.usefixtures("quick_recipes")
def test_a_series_goes_on_where_it_was_stopped_and_counts_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark.bench("digits", ["one"], runs=1, out=tmp_path / "r", device="cpu", latency="none")
    before = (tmp_path / "r" / "one" / "seed-0" / "summary.json").read_text()

    from daybreak.training import step_log

    monkeypatch.setattr(step_log, "isfinite", lambda _: False)
    record = benchmark.bench("digits", ["one"], runs=2, out=tmp_path / "r", device="cpu", latency="none", target=0.5)
    row = record["recipes"][0]
    assert (row["n"], row["failed"], row["seeds"]) == (1, 1, [0, 1])
    assert (tmp_path / "r" / "one" / "seed-0" / "summary.json").read_text() == before
    assert (row["time_to_target"]["n"], row["time_to_target"]["mean"]) == (2, None)
    assert row["time_to_target"]["reached"] == (1 if row["test_acc_tta"]["values"][0] >= 0.5 else 0)
    failed = json.loads((tmp_path / "r" / "one" / "seed-1" / "summary.json").read_text())
    assert failed["error"].startswith("step ")


def test_two_recipes_of_one_name_are_refused(tmp_path: Path) -> None:
    """The second would be taken for the first, whose runs are there."""
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(RECIPES["small"]))
    with pytest.raises(UsageError, match="two recipes of one name"):
        benchmark.bench("digits", ["small", str(file)], runs=1, out=tmp_path / "record")
    with pytest.raises(UsageError, match="--budget and --epochs"):
        benchmark.bench("digits", budgets=[60.0], epochs=2, runs=1, out=tmp_path / "record")


def test_a_bench_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to run"):
        benchmark.bench("digits", [], out=tmp_path)


def test_runs_on_two_machines_do_not_make_one_record(tmp_path: Path) -> None:
    for seed, cores in ((0, 2), (1, 4)):
        folder = tmp_path / "a" / f"seed-{seed}"
        folder.mkdir(parents=True)
        config = {"hardware": {"cores": cores}, "versions": {}, "compute_dtype": "float32", "recipe": {}}
        request = {"data": "digits", "size": None, "split_seed": 0}
        config["data"] = {"request": request, "name": "a", "title": "a", "fingerprint": "f", "notes": []}
        config |= {"seed": seed, "command": []}
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="differ in data, hardware"):
        make_record(tmp_path)


@pytest.mark.usefixtures("quick_recipes")
def test_runs_of_a_recipe_that_was_changed_do_not_make_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark.bench("digits", ["one"], runs=1, out=tmp_path, device="cpu", latency="none")
    monkeypatch.setitem(RECIPES, "one", override(RECIPES["one"], {"label_smoothing": 0.2}))
    with pytest.raises(RunError, match="recipe one was another one then"):
        benchmark.bench("digits", ["one"], runs=2, out=tmp_path, device="cpu", latency="none")
    assert not (tmp_path / "one" / "seed-1").exists()  # refused before anything was trained


@pytest.mark.usefixtures("quick_recipes")
def test_a_record_of_other_data_is_not_gone_on_with(tmp_path: Path) -> None:
    benchmark.bench("digits", ["one"], runs=1, out=tmp_path / "r", device="cpu", latency="none")
    images, labels = np.zeros((40, 16, 16, 3), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "other.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(RunError, match="another fingerprint"):
        benchmark.bench(tmp_path / "other.npz", ["one"], runs=1, out=tmp_path / "r", device="cpu", latency="none")


@pytest.mark.usefixtures("quick_recipes")
def test_a_signal_ends_a_series_and_keeps_what_is_whole(tmp_path: Path) -> None:
    def interrupt(event: dict) -> None:  # type: ignore[type-arg]
        if event["event"] == "epoch" and (tmp_path / "one" / "seed-0").exists():
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError, match=f"--out {tmp_path} goes on") as stopped:
        benchmark.bench("digits", ["one"], runs=3, out=tmp_path, device="cpu", latency="none", on_event=interrupt)
    assert stopped.value.signal == signal.SIGTERM
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["seed-0"]


def test_anchors_stand_first_in_between_and_last() -> None:
    anchor = script("anchor")
    plain, kept, recipes = anchor.PLAIN, anchor.KEPT, {"sprint": 4, "short": 2}
    names = [name for name, _ in anchor.order(recipes, 3, plain=1)]
    assert names == [kept, plain, "sprint", "short", "sprint", "short", kept, "sprint", "sprint", kept]
    assert [seed for name, seed in anchor.order(recipes, 3) if name == kept] == [0, 1, 2]
    assert {name for name, _ in anchor.order(recipes, 2, plain=1, device="cuda")} == {plain, "sprint", "short"}


def test_ratios_are_means_over_means(tmp_path: Path) -> None:
    anchor = script("anchor")
    rows = [
        {"name": anchor.PLAIN, "train_seconds": s, "test_acc": 0.8, "test_acc_tta": 0.9, "judge_seconds": 10}
        for s in (100, 300)
    ] + [{"name": anchor.KEPT, "train_seconds": 50, "test_acc": 0.8, "test_acc_tta": 0.9}]
    (tmp_path / "anchor.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {"recipe": "sprint", "n": 2, "train_seconds": {"mean": 80.0}, "test_acc_tta": {"mean": 0.9}}
    (tmp_path / "record.json").write_text(json.dumps({"recipes": [recipe]}))
    found = anchor.write_ratios(tmp_path)
    assert found["recipes"]["sprint"]["ratio_to"] == {anchor.PLAIN: 0.4, anchor.KEPT: 1.6}
    assert json.loads((tmp_path / "ratio.json").read_text()) == found


def test_what_counts_is_the_time_to_equal_accuracy(tmp_path: Path) -> None:
    anchor = script("anchor")
    row = {"name": anchor.KEPT, "train_seconds": 400, "test_acc": 0.8, "test_acc_tta": 0.94, "judge_seconds": 40}
    (tmp_path / "anchor.jsonl").write_text(json.dumps(row) + "\n")
    recipes = [
        {"recipe": name, "n": 2, "test_acc_tta": {"mean": a}, "train_seconds": {"mean": s}}
        | {"final_evaluate_seconds": {"mean": 10.0}}
        for name, a, s in (("long", 0.95, 400.0), ("short", 0.93, 100.0), ("shortest", 0.80, 10.0))
    ]
    (tmp_path / "record.json").write_text(json.dumps({"recipes": recipes}))
    found = anchor.write_ratios(tmp_path)["equal_accuracy"][anchor.KEPT]
    assert found["accuracy"] == 0.94
    assert found["train"]["seconds"] == pytest.approx(200)  # half-way between 100 and 400 on a logarithmic scale
    assert found["train"]["ratio"] == pytest.approx(0.5)
    assert found["train and evaluate"]["ratio"] == pytest.approx((110 * 410) ** 0.5 / 440)
    assert anchor.time_at(0.97, [(0.93, 100), (0.95, 400)]) is None
    assert anchor.time_at(0.94, [(0.95, 100), (0.93, 400)]) is None  # slower and worse: no line to read


def test_evidence_is_whole_or_not_there(tmp_path: Path) -> None:
    """A copy that broke off has no name that a series would take for a finished run."""
    broken = RunDirectory(tmp_path / "run")
    broken.path.mkdir()
    (broken.path / "config.json").write_text("not JSON")
    with pytest.raises(json.JSONDecodeError):
        keep_evidence(broken, tmp_path / "one" / "seed-0")
    assert not (tmp_path / "one" / "seed-0").exists()


@pytest.mark.parametrize("name", ["sprint", "page"])
def test_folding_keeps_the_function_and_removes_every_norm(name: str) -> None:
    torch.manual_seed(0)
    net = build_net(net_config(name=name, width=0.25), 10, 3).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    folded = fold_batch_norms(net)
    with torch.no_grad():
        assert torch.allclose(folded(images), net.eval()(images), atol=1e-10)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]  # the net itself is as it was


def test_a_norm_that_turns_signs_stays_behind_its_pool() -> None:
    """max(-x) is not -max(x)."""
    torch.manual_seed(0)
    net = build_net(net_config(name="sprint", width=0.25), 10, 3).eval()
    norm = net.get_submodule("layer1.norm")
    nn.init.constant_(norm.weight, -1.0)  # type: ignore[arg-type]
    images = torch.randn(4, 3, 32, 32)
    folded = fold_batch_norms(net)
    assert len([m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]) == 1
    with torch.no_grad():
        assert torch.allclose(folded(images), net(images), atol=1e-5)


@pytest.mark.parametrize("pool", [[], [nn.MaxPool2d(2)]])
@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_without_weights_of_its_own_is_folded_too(bias: bool, pool: list[nn.Module]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), *pool, nn.BatchNorm2d(4, affine=False)).eval().double()
    nn.init.uniform_(net[-1].running_var, 0.5, 2)  # type: ignore[arg-type]
    nn.init.normal_(net[-1].running_mean)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    folded = fold_batch_norms(net)
    with torch.no_grad():
        assert torch.allclose(folded(images), net(images), atol=1e-10)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]


def test_a_norm_of_the_batch_at_hand_cannot_be_folded() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(fold_batch_norms(net)(images), net(images))


def claim(
    name: str,
    accuracy: float,
    std: float | None,
    seconds: float,
    dataset: str = "digits",
    epochs: int | None = None,
    n: int | None = 5,
) -> Recipe:
    expected = Expected(
        accuracy=accuracy, std=std, n=n, epochs=epochs, train_seconds=seconds, dataset=dataset, hardware="here",
        record="nowhere",
    )  # fmt: skip
    return RECIPES["small"].model_copy(update={"name": name, "expected": expected})


def test_a_target_takes_the_cheapest_recipe_whose_record_promises_it(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = [
        claim("quick", 0.90, 0.002, 10),
        claim("lucky", 0.952, 0.01, 20),  # above the target in the mean only
        claim("sure", 0.96, 0.002, 50),
        claim("slow", 0.98, 0.002, 500),
        claim("elsewhere", 0.99, 0.001, 1, dataset="another"),
        claim("once", 0.99, None, 1, n=1),
        claim("twice", 0.96, 0.002, 30, n=2),  # promises 94.45 %: 0.96 - 6.3138 * 0.002 * sqrt(3/2)
        claim("shorter", 0.99, 0.001, 1, epochs=2),
    ]
    monkeypatch.setattr(recipe_choice, "RECIPES", {r.name: r for r in recipes})
    chosen, why = recipe_choice.for_target(0.95, digits)
    assert chosen.name == "sure"
    assert "95.53%" in why  # 0.96 - 2.1318 * 0.002 * sqrt(6/5)
    assert recipe_choice.for_target(0.85, digits)[0].name == "quick"
    assert "--recipe sure reached 96.00% ± 0.20% in 50 s" in recipe_choice.what_it_takes(0.95, "digits")
    assert "no recipe has a record of 99.90%" in recipe_choice.what_it_takes(0.999, "digits")


@pytest.mark.parametrize(("n", "promised"), [(2, 0.822673), (3, 0.866283), (5, 0.876647)])
def test_a_record_promises_what_the_next_run_will_exceed(n: int, promised: float) -> None:
    """The lower 95 % prediction bound for one new run. By hand, with t from a table: 0.9 - t * 0.01 * sqrt(1 + 1/n),
    t = 6.3138 at n = 2, 2.9200 at 3, 2.1318 at 5."""
    assert promise(claim("any", 0.9, 0.01, 1, n=n), "digits") == pytest.approx(promised, abs=1e-6)


def test_a_promise_holds_for_nineteen_of_twenty_new_runs() -> None:
    """Whatever the number of runs behind it: drawn from normal distributions, one new run against each promise."""
    rng = np.random.default_rng(0)
    for n in (2, 3, 5):
        runs = rng.normal(0.9, 0.002, (20_000, n + 1))
        mean, std = runs[:, :n].mean(1), runs[:, :n].std(1, ddof=1)
        unit = 0.5 - promise(claim("any", 0.5, 0.01, 1, n=n), "digits")  # of a deviation of 0.01
        assert (runs[:, n] >= mean - std * unit / 0.01).mean() == pytest.approx(0.95, abs=0.006)


@pytest.mark.parametrize(("n", "std"), [(None, 0.001), (1, None), (1, 0.001), (None, None)])
def test_a_record_of_unknown_spread_promises_nothing(n: int | None, std: float | None) -> None:
    assert promise(claim("any", 0.9, std, 1, n=n), "digits") == -math.inf


def test_a_target_that_no_record_promises_takes_the_most_thorough(digits: Dataset) -> None:
    chosen, why = recipe_choice.for_target(0.9999, digits)
    assert chosen.name == "small"
    assert "no recipe has a record" in why


def test_seconds_are_linear_in_pixels() -> None:
    seconds_at = recipe_choice._line([(400, 0.3), (1024, 0.612)])
    assert seconds_at(20) == pytest.approx(0.3)
    assert seconds_at(32) == pytest.approx(0.612)
    assert seconds_at(24) == pytest.approx(0.3 + (576 - 400) * 0.0005)


def test_predicted_seconds_add_up_over_the_stages(digits: Dataset) -> None:
    stages = (Stage(until=0.25, scale=0.5), Stage(until=1.0, scale=1.0))
    recipe = RECIPES["small"].model_copy(update={"epochs": 4, "batch_size": 100, "resolution": stages})
    steps = 4 * (len(digits.train.labels_N) // 100)
    found = recipe_choice.predicted_seconds(recipe, digits, lambda size: float(size))
    # Digits of 8 px are trained at 16; half of that is below the 9 px that leave something behind the pools.
    assert found == pytest.approx(steps * (0.25 * 9 + 0.75 * 16))


@pytest.mark.cifar
@pytest.mark.parametrize(("budget_in_rungs", "expected"), [(1.0, 0), (1.15, 0), (0.01, 0), (100.0, -1)])
def test_a_budget_takes_the_rung_that_lasts_about_as_long(
    budget_in_rungs: float, expected: int, cifar: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_choice, "step_seconds", lambda *_: lambda size: size**2 / 1024)
    shortest = recipe_choice.predicted_seconds(LADDER[0], cifar, lambda size: size**2 / 1024)
    chosen, why = recipe_choice.for_budget(budget_in_rungs * shortest, cifar, 0, CPU, Stopwatch())
    assert chosen == LADDER[expected]
    assert chosen.name in why


@pytest.mark.parametrize("compiles", [True, False])
def test_the_steps_timed_are_those_of_training(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, compiles: bool
) -> None:
    """Compiled where training would compile, off the train clock; the device has nothing queued when a timer is read.
    Time stands still here but for compiling (100 s) and for every forward of the net (1 s)."""
    log: list[str] = []
    now = [0.0]

    def ticking(seconds: float, what: str) -> None:
        now[0] += seconds
        log.append(what)

    def reading() -> float:
        log.append("read")
        return now[0]

    def forward_of(session: Session, what: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(images: torch.Tensor) -> torch.Tensor:
            ticking(1.0, what)
            return cast(torch.Tensor, session.net(images))

        return forward

    def make_ready(session: Session, _: str) -> None:
        if compiles:
            with session.watch.timed("compile"):
                ticking(100.0, "compile")
            session.forward = forward_of(session, "compiled")

    def prepared(*args: Any, **kwargs: Any) -> Session:
        session = prepare(*args, **kwargs)
        session.forward = forward_of(session, "eager")
        return session

    monkeypatch.setattr("daybreak.core.clock.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(recipe_choice, "time", SimpleNamespace(perf_counter=reading))
    monkeypatch.setattr(recipe_choice, "synchronizer", lambda _: lambda: log.append("wait"))
    monkeypatch.setattr(recipe_choice, "make_ready", make_ready)
    monkeypatch.setattr(recipe_choice, "prepare", prepared)
    watch = Stopwatch()
    seconds_at = recipe_choice.step_seconds(override(RECIPES["sprint"], QUICK), digits, 0, CPU, watch)
    step = "compiled" if compiles else "eager"
    timed = [step, "wait", "read", step, "wait", "read"]
    assert log == (["compile"] if compiles else []) + 2 * timed
    assert (seconds_at(10), seconds_at(16)) == (1.0, 1.0)
    assert watch.seconds("train") == 4.0  # what choosing takes is spent from the budget
    assert watch.seconds("compile") == (100.0 if compiles else 0.0)


def test_a_ladder_climbs() -> None:
    epochs = [recipe.epochs for recipe in LADDER]
    assert epochs == sorted(epochs)
    assert all(math.isclose(recipe.resolution[-1].until, 1.0) for recipe in LADDER)


def test_a_failed_loss_says_where(digits: Dataset, tmp_path: Path) -> None:
    """By SGD, on any processor: one step of 1e30 makes weights that float32 still holds, but not their products. (Muon
    keeps its weights at a fixed norm; whether that norm overflows first depends on how a processor adds.)"""
    from daybreak.training.train import train

    huge = {"optimizer.name": "sgd", "schedule.max_lr": 1e30, "schedule.initial_lr": 1e30}
    broken = override(RECIPES["small"], QUICK | huge)
    with pytest.raises(NonFiniteError, match=r"step 2: the loss is (nan|inf) at learning rate 9.77\d+e\+29"):
        train(broken, replace(digits), tmp_path / "run", TrainOptions(device="cpu"))


def test_an_epoch_counts_for_dawnbench_only_at_the_size_of_the_finished_net() -> None:
    """The same rule by which `train --dawn-rule` stops."""
    rows = [
        {"size": size, "test_acc": accuracy, "train_seconds": seconds}
        for size, accuracy, seconds in ((20, 0.95, 1.0), (32, 0.8, 2.0), (32, 0.93, 3.0), (32, 0.96, 4.0))
    ]
    run = SimpleNamespace(
        summary={"test_acc": 0.96, "test_acc_tta": 0.97, "train_seconds": 4.0}, metrics=lambda _: rows
    )
    found = [_time_to(run, target, True) for target in (0.92, 0.95, 0.99)]  # type: ignore[arg-type]
    assert found == [3.0, 4.0, None]


def test_a_record_on_compressed_images_promises_for_the_images_themselves() -> None:
    reached = measured(0.905, 368, "2026-11-22_sprint-9", n=5, std=0.002)
    sprint = RECIPES["sprint"].model_copy(update={"expected": reached})
    assert promise(sprint, "CIFAR-10") == promise(sprint, "CIFAR-10 (JPEG q75)") > 0.85
    assert promise(sprint, "CIFAR-100") < 0


def test_a_lead_says_whether_it_can_be_chance() -> None:
    """Against scipy's Welch test on the same six accuracies, by hand: t = 4.899, 4 degrees of freedom."""

    def row(name: str, *values: float) -> dict[str, Any]:
        return {"recipe": name, "test_acc_tta": {"values": list(values)}}

    first, clear = row("a", 0.93, 0.94, 0.95), row("b", 0.89, 0.90, 0.91)
    assert leads([first, clear]) == [
        "a against b: +4.00 points (95 % +1.73 to +6.27, Welch's test: p = 0.00805), a significant difference"
    ]
    (line,) = leads([first, row("c", 0.94, 0.90, 0.95)])
    assert line.startswith("a against c: +1.00 points (95 % -")
    assert line.endswith("which can be chance")
    assert leads([first]) == leads([first, row("d", 0.9)]) == []
    assert leads([row("e", 0.9, 0.9), row("f", 0.8, 0.8)]) == []
