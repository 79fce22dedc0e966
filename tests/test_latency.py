"""Latency: percentiles, turns, forms that answer as the run does, and which of them stands for the run."""

import json
import sys
import time
from collections.abc import Callable
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console

import daybreak as db
from daybreak.benchmarking import bench as benchmark
from daybreak.benchmarking import compiling
from daybreak.benchmarking.forms import COMPILED, EAGER, FOLDED, INT8, ONNX, Form, answer, folded
from daybreak.benchmarking.latency import FORMS, batches, fastest, forms_of, is_the_runs, measure, timings, working
from daybreak.cli import main, output
from daybreak.core import timing
from daybreak.core.config import override
from daybreak.core.errors import UsageError
from daybreak.core.metrics import softmax
from daybreak.core.nets import net_config
from daybreak.core.timing import Effort, percentiles_ms, time_in_turns
from daybreak.export.parity import in_blocks
from daybreak.models.registry import build_net
from daybreak.recipes import RECIPES
from daybreak.runs.classifier import Classifier
from daybreak.runs.directory import RunDirectory
from daybreak.runs.transforms import Normalizer

LITTLE = Effort(timings=5, seconds=0.0, longest=1.0, turn=0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


class Machine:
    """A clock that stands still but for calls, which are noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.log = 0.0, list[str]()
        monkeypatch.setattr(timing.time, "sleep", lambda seconds: self.log.append("rest"))

    def call(self, name: str, seconds: float, slower: float = 0.0) -> None:
        """
        Args:
            slower: by this share for every second on the clock.
        """
        self.log.append(name)
        self.now += seconds * (1 + slower * self.now)

    def clock(self) -> float:
        return self.now


# -- timing -----------------------------------------------------------------------------------------------------------


def test_percentiles_of_known_values() -> None:
    """By hand, of 1 to 100: the 95th lies at place 1 + 0.95 * 99, five hundredths of the way from 95 to 96."""
    found = percentiles_ms([n / 1000 for n in range(100, 0, -1)])
    assert list(found) == ["p50_ms", "p95_ms", "p99_ms"]
    assert list(found.values()) == pytest.approx([50.5, 95.05, 99.01])
    assert list(percentiles_ms([0.002]).values()) == [2.0, 2.0, 2.0]
    seconds = np.random.default_rng(0).lognormal(-7, 0.5, 777)
    assert list(percentiles_ms(seconds.tolist()).values()) == pytest.approx(
        [1e3 * float(np.percentile(seconds, q)) for q in (50, 95, 99)]
    )


def test_calls_take_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    calls = {"a": lambda: machine.call("a", 1.0), "b": lambda: machine.call("b", 2.0)}
    found = time_in_turns(calls, Effort(timings=6, seconds=0.0, longest=100.0, turn=2.0), machine.clock)
    assert found == {"a": [1.0] * 6, "b": [2.0] * 6}
    both = ["rest", "a", "a", "a", "rest", "b", "b"]  # each turn begins with a call that is not timed
    assert machine.log == ["a", "a", "a", "b", "b"] + 3 * both + 3 * ["rest", "b", "b"]


@pytest.mark.parametrize(
    ("effort", "timings"),
    [
        (Effort(timings=50, seconds=2.0, longest=20.0, turn=0.0), 50),
        (Effort(timings=5, seconds=16.5, longest=20.0, turn=0.0), 66),
        (Effort(timings=500, seconds=2.0, longest=3.0, turn=0.0), 12),
        (Effort(timings=50, seconds=2.0, longest=0.25, turn=0.0), timing.FEWEST),
    ],
)
def test_enough_is_by_number_by_time_and_never_too_few(
    effort: Effort, timings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    (found,) = time_in_turns({"a": lambda: machine.call("a", 0.25)}, effort, machine.clock).values()
    assert len(found) == timings
    assert "rest" not in machine.log  # there is nobody else to wait for


def test_a_machine_that_slows_down_hits_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls of the same work. One after the other, the second would look much slower."""
    machine, effort = Machine(monkeypatch), Effort(timings=100, seconds=0.0, longest=1e9, turn=0.01)
    calls = {name: (lambda: machine.call("work", 0.001, slower=1.0)) for name in ("a", "b")}
    first, second = (np.median(s) for s in time_in_turns(calls, effort, machine.clock).values())
    assert second / first == pytest.approx(1.0, abs=0.03)
    machine.now = 0.0
    first, second = (
        np.median(time_in_turns({name: call}, effort, machine.clock)[name]) for name, call in calls.items()
    )
    assert second / first > 1.1


def test_all_blocks_have_one_size() -> None:
    images, sizes = np.arange(10, dtype=np.uint8)[:, None], list[int]()

    def answer(block: np.ndarray) -> np.ndarray:
        sizes.append(len(block))
        return block * 2

    for block, expected in ((4, [4, 4, 4]), (5, [5, 5]), (64, [10]), (1, [1] * 10)):
        sizes.clear()
        assert in_blocks(answer, images, block).tolist() == (images * 2).tolist()
        assert sizes == expected


# -- which form stands for the run ------------------------------------------------------------------------------------


def row(form: str, p50: float, changed: int = 0, accuracy: float = 0.94, dtype: str = "float32") -> dict[str, Any]:
    return {"form": form, "batch": 1, "p50_ms": p50, "changed_answers": changed, "test_acc": accuracy, "dtype": dtype}


def form_of(rows: list[dict[str, Any]], dtype: str = "float32") -> str | None:
    found = fastest(rows, {"test_acc": 0.94, "dtype": dtype, "seed": 0})
    return found["form"] if found else None


def test_the_fastest_form_that_answers_as_the_run_does_is_chosen() -> None:
    slow = [row(EAGER, 3.0), row(FOLDED, 2.0)]
    assert form_of([*slow, row(ONNX, 1.0)]) == ONNX
    assert form_of([*slow, row(ONNX, 1.0, changed=1)]) == FOLDED
    assert form_of([*slow, row(ONNX, 1.0, changed=1, accuracy=0.95)]) == FOLDED  # better is not the same
    assert form_of([*slow, row(ONNX, 1.0) | {"batch": 64}]) == FOLDED  # one image at a time
    assert form_of([row(EAGER, 3.0), row(FOLDED, 2.0, changed=1)]) == EAGER
    assert form_of([]) is fastest([], None) is None


def test_eight_bits_count_only_at_the_accuracy_of_the_run() -> None:
    slow = [row(EAGER, 3.0), row(ONNX, 2.0)]
    assert form_of([*slow, row(INT8, 1.0, changed=9, accuracy=0.94, dtype="int8")]) == INT8
    assert form_of([*slow, row(INT8, 1.0, changed=9, accuracy=0.9399, dtype="int8")]) == ONNX


def test_a_run_in_bfloat16_is_compared_by_accuracy() -> None:
    """Its own net changes answers as soon as it adds in another order."""
    run = row(EAGER, 3.0, changed=2, accuracy=0.9398, dtype="bfloat16")
    good = row(FOLDED, 2.0, changed=5, dtype="bfloat16")
    bad = row(ONNX, 1.0, changed=5, accuracy=0.9399)
    assert form_of([run, good, bad], "bfloat16") == FOLDED
    assert form_of([run, bad], "bfloat16") == EAGER
    assert not is_the_runs(good, {"test_acc": 0.9401, "dtype": "bfloat16"})


# -- the forms of a run -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without a compiler: it traces the net and runs what it has traced."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **_: real(net, backend="eager", dynamic=False))
    monkeypatch.setattr(compiling, "_rehearse", lambda *_: None)


@pytest.mark.usefixtures("quick_compiler")
def test_a_bench_of_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"model.width": 0.1, "epochs": 2, "min_steps": 0, "precision": "float32"}
    monkeypatch.setitem(RECIPES, "one", override(RECIPES["small"], quick).model_copy(update={"name": "one"}))
    monkeypatch.setattr(benchmark, "measure", lambda *given: measure(*given, LITTLE))
    record = db.bench(
        "digits", ["one"], runs=1, latency="all", out=tmp_path / "record", dawn_folder=tmp_path / "dawn", device="cpu"
    )
    (found,) = record["recipes"]
    rows = found["latency"]
    assert found["latency_unavailable"] == {}
    assert [(r["form"], r["batch"]) for r in rows] == [(form, batch) for form in FORMS["all"] for batch in (1, 64)]
    for r in rows:
        assert 0 < r["p50_ms"] <= r["p95_ms"] <= r["p99_ms"] < float("inf")
        assert r["n"] >= LITTLE.timings
        assert 0 < r["images_per_second"] < float("inf")
        assert r["device"] == "cpu"
        if r["form"] != INT8:
            assert (r["changed_answers"], r["test_acc"], r["dtype"]) == (0, found["test_acc"]["mean"], "float32")
    assert {r["dtype"] for r in rows if r["form"] == INT8} == {"int8"}
    assert found["latency_run"] == {"seed": 0, "test_acc": found["test_acc"]["mean"], "dtype": "float32"}
    best = fastest(rows, found["latency_run"])
    assert best is not None
    assert (found["latency_ms"], found["latency_form"]) == (best["p50_ms"], best["form"])
    (entry,) = (json.loads(path.read_text()) for path in (tmp_path / "dawn" / "inference").glob("*.json"))
    assert entry["misc"]["form"] == best["form"]
    assert (entry["latency"], entry["top1Accuracy"]) == (best["p50_ms"], 100 * best["test_acc"])


def test_without_onnxruntime_there_is_a_reason(digits_run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = measure(digits_run, "cpu", (EAGER, ONNX, INT8), LITTLE)
    assert {r["form"] for r in found["rows"]} == {EAGER}
    assert set(found["unavailable"]) == {ONNX, INT8}
    for why in found["unavailable"].values():
        assert why.startswith("onnxruntime")
        assert why.endswith("is not installed")


def test_answers_that_change_are_counted(digits_run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folding that loses a bias is not the run any more."""
    from daybreak.benchmarking import forms

    def broken(net: torch.nn.Module) -> torch.nn.Module:
        found = real(net)
        for module in found.modules():
            if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        return found

    real = forms.fold_batch_norms
    whole = measure(digits_run, "cpu", (EAGER, FOLDED), LITTLE)
    assert [r["changed_answers"] for r in whole["rows"]] == [0] * 4
    monkeypatch.setattr(forms, "fold_batch_norms", broken)
    found = measure(digits_run, "cpu", (EAGER, FOLDED), LITTLE)
    changed = {r["form"]: r["changed_answers"] for r in found["rows"]}
    assert changed[EAGER] == 0 < changed[FOLDED]
    best = fastest([r | {"p50_ms": 1e-9 if r["form"] == FOLDED else 1.0} for r in found["rows"]], found["run"])
    assert best is not None
    assert best["form"] == EAGER


def small_classifier() -> Classifier:
    torch.manual_seed(0)
    net = build_net(net_config(name="sprint", width=0.1), 10, 3).eval()
    normalizer = Normalizer((0.5,) * 3, (0.25,) * 3)
    return Classifier(net, tuple("abcdefghij"), 32, normalizer, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", [EAGER, FOLDED, pytest.param(COMPILED, marks=pytest.mark.slow)])
def test_every_form_answers_with_the_same_probabilities(name: str) -> None:
    classifier = small_classifier()
    ready = {
        EAGER: lambda: classifier,
        FOLDED: lambda: folded(classifier),
        COMPILED: lambda: compiling.compiled(classifier, [IMAGES]),
    }[name]()
    found = answer(ready, IMAGES)
    assert found == pytest.approx(softmax(classifier.logits(IMAGES)), abs=1e-4)
    assert found.sum(1) == pytest.approx(np.ones(len(IMAGES)), abs=1e-5)


def test_a_form_that_does_not_work_says_why_and_the_others_are_timed() -> None:
    def blank(images: np.ndarray) -> np.ndarray:
        return np.zeros((len(images), 10), np.float32)

    def broken(images: np.ndarray) -> np.ndarray:
        if len(images) == 1:
            raise RuntimeError("not one\nat a time")
        return blank(images)

    makers = {f.name: lambda f=f: f for f in (Form("a", "cpu", "float32", blank), Form("b", "cpu", "float32", broken))}  # type: ignore[misc]
    forms, unavailable = working(makers, IMAGES)
    assert [form.name for form in forms] == ["a"]
    assert unavailable == {"b": "RuntimeError: not one\\nat a time"}
    assert batches(IMAGES) == [1, 6]
    assert [(r["form"], r["batch"]) for r in timings(forms, IMAGES, LITTLE)] == [("a", 1), ("a", 6)]


# -- compiling --------------------------------------------------------------------------------------------------------


def in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program instead of the Python that compiles."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_compiler_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pid"
    in_its_place(tmp_path, monkeypatch, f"sleep 600 & echo $! > {file}.part; mv {file}.part {file}; wait")
    ended, real = list[int](), compiling._end

    def end(process: Any) -> None:
        assert soon(file.exists)
        ended.append(process.pid)
        real(process)

    monkeypatch.setattr(compiling, "_end", end)
    with pytest.raises(RuntimeError, match=r"compiling takes longer than 0\.01 s"):
        compiling.compiled(small_classifier(), [IMAGES], seconds=0.01)
    started = int(file.read_text())  # the compiler that the process had started
    assert not psutil.pid_exists(ended[0])
    assert soon(lambda: not psutil.pid_exists(started) or psutil.Process(started).status() == psutil.STATUS_ZOMBIE)


def soon(is_so: Callable[[], bool]) -> bool:
    """Whether something becomes so while one can wait for it."""
    return any(is_so() or time.sleep(0.01) for _ in range(3000))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            "echo much; echo 'InvalidCxxCompiler: no working compiler'; exit 1",
            "InvalidCxxCompiler: no working compiler",
        ),
        ("kill -9 $$", "the compiler's process ended with code -9"),
    ],
)
def test_where_nothing_can_be_compiled_there_is_a_reason(
    script: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_its_place(tmp_path, monkeypatch, script)
    with pytest.raises(RuntimeError) as raised:
        compiling.compiled(small_classifier(), [IMAGES])
    assert str(raised.value) == why


def test_the_process_that_compiles_says_why_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("no compiler\nhere")

    torch.save((small_classifier(), [IMAGES], torch.get_num_threads()), tmp_path / "file")
    monkeypatch.setattr(torch, "compile", fails)
    assert compiling._main(str(tmp_path / "file")) == 1
    assert capsys.readouterr().out == "ValueError: no compiler\\nhere\n"


# -- the record and the table -----------------------------------------------------------------------------------------


def test_a_file_of_0_1_0_counts_as_not_measured(tmp_path: Path) -> None:
    old = {"one_image_ms": {"eager": {"median": 1.0, "mean": 1.0, "p99": 1.0, "images": 9}}, "fastest": "eager"}
    (tmp_path / "latency.json").write_text(json.dumps(old))
    assert benchmark._inference(tmp_path)["latency_ms"] is None
    assert benchmark._known_forms(tmp_path) == set()
    new = {"rows": [row(EAGER, 2.0)], "unavailable": {ONNX: "why"}, "run": {"test_acc": 0.94, "dtype": "float32"}}
    (tmp_path / "latency.json").write_text(json.dumps(new))
    assert benchmark._inference(tmp_path)["latency_ms"] == 2.0
    assert benchmark._known_forms(tmp_path) == {EAGER, ONNX}


def test_an_unknown_choice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert forms_of("none") == ()
    with pytest.raises(UsageError, match="--latency True: not a choice; try: one of none, quick, all"):
        db.bench("digits", ["small"], latency=True)  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "digits", "--recipe", "small", "--latency", "often"])
    assert ended.value.code == 2
    assert "one of none, quick, all" in capsys.readouterr().err


def test_the_table_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {"p95_ms": 123.45, "p99_ms": 1234.56, "images_per_second": 12345.6, "n": 50}
    rows = [
        row(form, 12.34, 1234, dtype=dtype) | wide | {"batch": batch, "device": device}
        for form, device, dtype in ((EAGER, "cuda", "bfloat16"), (INT8, "cpu", "int8"))
        for batch in (1, 64)
    ]
    spread = {"mean": 0.94, "std": None, "ci95": None}
    shown = {"recipe": "sprint-16", "n": 1, "failed": 0, "test_acc_tta": spread, "train_seconds": {"mean": 700.0}}
    shown |= {"latency_ms": 12.34, "latency_form": INT8, "cost_train_usd": 0.1, "latency_run": {"seed": 0}}
    shown |= {"latency": rows, "latency_unavailable": {COMPILED: "no compiler"}}
    file = StringIO()
    monkeypatch.setattr(output, "console", Console(file=file, width=80, soft_wrap=True))
    output.bench({"recipes": [shown], "record": "runs/r"})
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "sprint-16, seed 0: its latency is that of onnx-int8; of all forms, in ms:" in lines
    assert lines[-3].split() == ["onnx-int8", "(cpu)", "64", "12.34", "123.45", "1234.56", "12,346", "1234", "94.00%"]
    assert lines[-2] == "note: not compiled: no compiler"


def test_five_timings_at_least_each_after_a_twentieth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    slept, ticks = list[float](), count()
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    effort = Effort(timings=1, seconds=0.0, longest=0.0, turn=0.0)
    found = time_in_turns({"a": int, "b": int}, effort, lambda: float(next(ticks)))
    assert found == {"a": [1.0] * 5, "b": [1.0] * 5}
    assert slept == [0.05] * 10
