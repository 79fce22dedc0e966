"""A resumed run equals one that was never stopped: at every step, after kill -9, after a signal, in every phase."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from resuming import STEPS, begin, begin_or_go_on, files, final_state, go_on, recipe, rows

from daybreak import api
from daybreak.core.config import override
from daybreak.core.errors import RunError, StorageError, UsageError
from daybreak.core.options import TrainOptions
from daybreak.data import open_dataset
from daybreak.runs.directory import RunDirectory
from daybreak.training import checkpoint, finish, loop, state
from daybreak.training.checkpoint import TENSORS
from daybreak.training.schedule import learning_rate
from daybreak.training.train import resume, train

Count = Callable[[str, object], None]
SOAK = bool(os.environ.get("DAYBREAK_SOAK"))
SLOW = pytest.mark.slow
POINTS = range(1, STEPS + 1) if SOAK else (7, 20, *(pytest.param(step, marks=SLOW) for step in (1, 19, 21, 33, 39)))
KILLS = (300,) if SOAK else (2, pytest.param(6, marks=SLOW))


@pytest.fixture(
    scope="module",
    params=[
        ("page", "bfloat16"),
        ("sprint", "float32"),
        pytest.param(("page", "float32"), marks=SLOW),
        pytest.param(("sprint", "bfloat16"), marks=SLOW),
    ],
    ids="-".join,
)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped, with a checkpoint of every step."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "KEPT", STEPS)
        begin(str(out), *request.param, every=1)
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped, with a checkpoint of every fifth step."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "KEPT", STEPS)
        begin(str(out))
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("step", POINTS)
def test_resumed_at_any_step_it_ends_the_same(step: int, whole: Path, tmp_path: Path) -> None:
    run = stopped_after(step, whole, tmp_path / "run")
    torch.manual_seed(step)  # whatever the random state of the process is
    go_on(str(run))
    assert final_state(run) == final_state(whole)
    assert rows(run) == rows(whole)
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    mine, reference = (RunDirectory.open(path).predictions() for path in (run, whole))
    assert mine is not None
    assert reference is not None
    assert (mine.logits_tta == reference.logits_tta).all()


def stopped_after(step: int, whole: Path, out: Path) -> Path:
    """The directory as it was when the process was killed somewhat after this step: its rows go on a little."""
    out.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        shutil.copy(whole / name, out / name)
    for number in (step - 1, step):
        if number:
            shutil.copytree(whole / "checkpoints" / f"step-{number:08d}", out / "checkpoints" / f"step-{number:08d}")
    return out


@pytest.mark.parametrize("forgotten", ["optimizer.0.0.", "random.cpu", "ema."])
def test_the_comparison_notices_what_is_forgotten(
    forgotten: str, finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the matrix: a state without this part does not end the same."""
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}")
    original = checkpoint.read
    fresh = original(finished / "checkpoints" / "step-00000010").tensors

    def forgetful(path: Path) -> checkpoint.Checkpoint:
        found = original(path)
        kept = {k: fresh[k] if k.startswith(forgotten) else v for k, v in found.tensors.items()}
        return checkpoint.Checkpoint(kept, found.facts)

    monkeypatch.setattr(checkpoint, "read", forgetful)
    go_on(str(run))
    assert final_state(run) != final_state(finished)


# -- kill -9 ----------------------------------------------------------------------------------------------------------


def in_a_process(out: Path) -> Any:
    """Train or resume in a process of its own: forked from a server that has imported everything and run nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["daybreak.training.train", "daybreak.data.open"])
    process = context.Process(target=begin_or_go_on, args=(str(out),))
    process.start()
    return process


def wait_for_a_checkpoint(process: Any, run: Path, step: int) -> None:
    while process.is_alive() and not any(p.name >= f"step-{step:08d}" for p in run.glob("checkpoints/step-*")):
        time.sleep(0.002)


@pytest.mark.parametrize("kills", KILLS)
def test_killed_at_any_moment_it_ends_the_same(kills: int, tmp_path: Path, record_property: Count) -> None:
    """2 or 6 times here; `make soak` does 300."""
    in_a_process(tmp_path / "warm").join()  # the server starts
    reference, rng, begun, midway = tmp_path / "reference", np.random.default_rng(0), time.monotonic(), 0
    in_a_process(reference).join()
    lasts = time.monotonic() - begun
    record_property("trials", kills)
    for number in range(kills):
        out = tmp_path / str(number)
        process = in_a_process(out)
        if number % 2:  # after some checkpoint, however slow the machine is just now
            wait_for_a_checkpoint(process, out, 5 * int(rng.integers(1, 7)))
        time.sleep(rng.uniform(0, 0.02 if number % 2 else lasts))
        process.kill()
        process.join()
        midway += any(out.glob("checkpoints/step-*")) and not (out / "summary.json").exists()
        again = in_a_process(out)
        again.join()
        assert again.exitcode == 0
        assert final_state(out) == final_state(reference)
        assert rows(out) == rows(reference)
        assert files(out) == files(reference)
        shutil.rmtree(out)
    assert midway >= kills // 4  # between the first checkpoint and the end


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["evaluate_epoch", "predict_test", "train_step"])
def test_a_signal_in_any_phase_loses_nothing(
    phase: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    home = finish if phase == "predict_test" else loop
    original, calls = getattr(home, phase), []

    def interrupted(*args: Any) -> Any:
        calls.append(phase)
        if len(calls) == (13 if phase == "train_step" else 1):
            signal.raise_signal(signal.SIGTERM)
        return original(*args)

    monkeypatch.setattr(home, phase, interrupted)
    begin(str(run))
    summary = RunDirectory.open(run).summary
    assert summary["interrupted"] == signal.SIGTERM
    assert summary["steps"] == {"evaluate_epoch": 20, "predict_test": 40, "train_step": 13}[phase]
    assert RunDirectory.open(run).predictions() is None
    go_on(str(run))
    assert final_state(run) == final_state(finished)
    assert rows(run) == rows(finished)
    assert RunDirectory.open(run).summary["interrupted"] is None


@SLOW
def test_the_command_line_resumes(tmp_path: Path) -> None:
    """A real process, a real signal: 143, then the same line with --resume ends where an unbroken run does."""
    settings = ["--set", "model.width=0.1", "--set", "precision=float32"]
    options = ["--epochs", "6", *settings, "--no-report", "--json"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    train_line = [sys.executable, "-m", "daybreak", "train", "digits", *options]
    subprocess.run([*train_line, "--out", str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*train_line, "--out", str(run)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    metrics = run / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or '"epoch"' not in metrics.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    again = subprocess.run(
        [sys.executable, "-m", "daybreak", "train", "--resume", str(run), "--no-report", "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "note: resumed after step" in again.stderr
    assert json.loads(again.stdout)["interrupted"] is None
    hashes = [(max(p.glob("checkpoints/step-*")) / TENSORS).read_bytes() for p in (whole, run)]
    assert hashes[0] == hashes[1]
    assert RunDirectory.open(run).config["resumed"][0]["command"][:3] == ["daybreak", "train", "--resume"]


# -- what a resumed run says, and refuses -----------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(run: Path) -> None:
    expected = final_state(run)
    (run / "checkpoints" / f"step-{STEPS:08d}" / TENSORS).write_bytes(b"")
    notes: list[str] = []
    go_on(str(run), on_event=lambda event: notes.extend(event.get("notes", []) if event["event"] == "start" else []))
    assert notes[0].startswith(
        f"step-{STEPS:08d} is damaged ({TENSORS} is not what manifest.json says), kept as damaged"
    )
    assert notes[1] == "resumed after step 35"
    assert final_state(run) == expected


def test_other_circumstances_are_named(run: Path) -> None:
    threads = torch.get_num_threads()
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}")
    notes: list[str] = []
    torch.set_num_threads(threads + 1)
    try:
        go_on(
            str(run), on_event=lambda event: notes.extend(event.get("notes", []) if event["event"] == "start" else [])
        )
    finally:
        torch.set_num_threads(threads)
    assert notes == ["resumed after step 35", f"not bit-exact: threads {threads} then, {threads + 1} now"]
    assert RunDirectory.open(run).config["resumed"][0]["notes"] == notes


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_finished_run_stays_as_it_is(run: Path) -> None:
    """So that `until daybreak train --resume RUN; do :; done` ends."""
    before, told = content(run), []
    assert go_on(str(run), on_event=told.append).path == run
    assert content(run) == before
    assert [event["why"] for event in told if event["event"] == "note"] == [
        f"{run} is finished already; with more --epochs it goes on"
    ]


def test_a_finished_run_gets_the_report_that_a_kill_prevented(run: Path) -> None:
    before = content(run)
    assert "report.html" not in {Path(name).name for name in before}
    api.resume(run)
    assert (run / "report.html").exists()
    kept = content(run)
    assert all(kept[name] == before[name] for name in before)
    api.resume(run)
    assert content(run) == kept


def test_what_was_exported_is_set_aside_with_the_weights(run: Path) -> None:
    """Under another name: somebody may have edited it."""
    for name in ("bundle-onnx", "mine"):
        (run / name).mkdir()
        (run / name / "model.onnx").write_bytes(b"old")
    (run / "bundle-onnx" / "bundle.json").write_text("{}")
    go_on(str(run))
    assert (run / "bundle-onnx").exists()  # nothing was trained
    go_on(str(run), epochs=3)
    assert not (run / "bundle-onnx").exists()
    assert (run / "outdated-bundle-onnx" / "model.onnx").read_bytes() == b"old"
    assert (run / "mine").exists()  # no bundle
    (run / "bundle-onnx").mkdir()
    (run / "bundle-onnx" / "bundle.json").write_text("{}")
    go_on(str(run), epochs=4)
    assert {path.name for path in run.glob("outdated-*")} == {"outdated-bundle-onnx", "outdated-bundle-onnx-2"}


def test_a_finished_run_is_extended(run: Path) -> None:
    go_on(str(run), epochs=3)
    directory = RunDirectory.open(run)
    assert [row["epoch"] for row in directory.metrics("epoch")] == [1, 2, 3]
    assert (directory.summary["steps"], directory.recipe.epochs) == (60, 3)
    cycle = recipe().schedule
    late = [row for row in directory.metrics("step") if row["step"] > STEPS]
    muon = [row["lr"] for row in late]
    assert muon == pytest.approx([learning_rate(cycle, (row["step"] - 1) / 60) for row in late])


def test_lengths_of_another_kind_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="its cycle is over epochs"):
        go_on(str(run), budget=10.0)


def time_of_steps(patch: pytest.MonkeyPatch, at_step: Callable[[int], None] = lambda _: None) -> None:
    """The clock counts steps, a twentieth of a second each; `at_step` is told the number of each before it is made."""
    original, steps = loop.train_step, [0]

    def step(*args: Any) -> Any:
        steps[0] += 1
        at_step(steps[0])
        return original(*args)

    patch.setattr(loop, "train_step", step)
    patch.setattr("daybreak.core.clock.time", SimpleNamespace(perf_counter=lambda: steps[0] / 20))


def test_a_budget_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_of_steps(monkeypatch, lambda number: signal.raise_signal(signal.SIGINT) if number == 13 else None)
    data = open_dataset("digits")
    run = train(recipe(), data, tmp_path / "run", TrainOptions(device="cpu", budget=2.0))
    before = run.metrics("step")[-1]
    assert run.summary["interrupted"] == signal.SIGINT
    run = resume(tmp_path / "run", data)
    after = [row for row in run.metrics("step") if row["step"] > before["step"]]
    assert all(row["progress"] > before["progress"] for row in after)
    assert [row["step"] for row in after] == list(range(14, 41))
    assert [row["progress"] for row in after] == pytest.approx([row["step"] / 40 for row in after])
    assert run.summary["interrupted"] is None


def test_killed_before_the_first_checkpoint_it_begins_anew_and_says_so(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "KEPT", STEPS)
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished / "config.json", run)
    (run / ".model.json.2000000000.tmp").write_text("half")  # no process has such a number
    notes: list[str] = []
    go_on(str(run), on_event=lambda event: notes.extend(event.get("notes", []) if event["event"] == "start" else []))
    assert notes == ["no checkpoint yet; from the beginning"]
    assert final_state(run) == final_state(finished)
    assert files(run) == files(finished)


def test_a_checkpoint_of_another_net_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["model"]["width"] = 0.2
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"recipe\.model\.width is 0\.2, and the run was trained with 0\.1") as caught:
        go_on(str(run))
    assert caught.value.exit_code == 4
    monkeypatch.setattr(state, "deciding", lambda *_: {})  # as for a checkpoint of 0.1.0, which did not say
    monkeypatch.setattr(state, "check_decided", lambda *_: None)
    with pytest.raises(RunError, match="does not fit the recipe's net") as caught:
        go_on(str(run))
    assert caught.value.exit_code == 4


def test_predictions_of_older_weights_do_not_stay(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run is extended and stopped on the way: what the old weights said is not what the new ones say."""
    original = loop.train_step

    def interrupted(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(loop, "train_step", interrupted)
    go_on(str(run), epochs=3)
    directory = RunDirectory.open(run)
    assert (directory.summary["steps"], directory.summary["interrupted"]) == (41, signal.SIGINT)
    assert directory.predictions() is None


@SLOW
def test_two_runs_in_one_directory(tmp_path: Path) -> None:
    """Two real processes: one wins, the other exits 7 and names the winner."""
    out = tmp_path / "run"
    line = [sys.executable, "-m", "daybreak", "train", "digits", "--epochs", "5000", "--no-report", "--out", str(out)]
    first = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while first.poll() is None and not (out / "config.json").exists():
        time.sleep(0.05)
    second = subprocess.run(line, capture_output=True, text=True, check=False)
    assert second.returncode == 7
    assert f"in use by process {first.pid} on " in second.stderr
    first.kill()
    first.wait()
    third = subprocess.run(line, capture_output=True, text=True, check=False)
    assert third.returncode == 2  # kill -9 leaves no lock behind, only the run
    assert "not empty" in third.stderr


def test_never_means_at_the_end_only(tmp_path: Path) -> None:
    train(recipe(), open_dataset("digits"), tmp_path / "run", TrainOptions(device="cpu", checkpoint_every="never"))
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]


@pytest.mark.parametrize("runs", [2, pytest.param(5, marks=SLOW)])
def test_runs_of_one_seed_are_one(runs: int, tmp_path: Path) -> None:
    """With --deterministic runs end in the same bits, whatever the process did before; another seed does not."""
    data, states = open_dataset("digits"), []
    for number, seed in enumerate([0] * runs + [1]):
        torch.manual_seed(number)
        run = train(recipe(), data, tmp_path / str(number), TrainOptions(device="cpu", seed=seed, deterministic=True))
        states.append(final_state(run.path))
    assert len(set(states[:-1])) == 1
    assert states[-1] != states[0]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_disk_that_is_too_full_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"[\d,]+ bytes needed, 1,000 are free"):
        train(recipe(), open_dataset("digits"), tmp_path / "run", TrainOptions(device="cpu"))
    assert files(tmp_path / "run") == set()


def test_a_result_without_its_checkpoints_is_not_trained_over(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    before = (run / "summary.json").read_bytes()
    with pytest.raises(RunError, match="missing, though the run has come to a result"):
        go_on(str(run), epochs=3)
    assert (run / "summary.json").read_bytes() == before


def test_a_run_that_the_rule_has_ended_stays_ended(tmp_path: Path) -> None:
    """Finished by DAWNBench's rule after its first epoch; killed just before it had written its summary, too."""
    data = open_dataset("digits")
    options: dict[str, Any] = {"target": 0.01, "dawn_rule": True}
    run = train(recipe(), data, tmp_path / "run", TrainOptions(device="cpu", **options))
    assert (run.summary["steps"], run.summary["target_met"]) == (20, True)
    assert resume(run.path, data).summary == run.summary
    (run.path / "summary.json").unlink()
    again = resume(run.path, data)
    assert (again.summary["steps"], again.summary["target_met"]) == (20, True)


def test_a_finished_budget_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_of_steps(monkeypatch)
    data = open_dataset("digits")
    run = train(recipe(), data, tmp_path / "run", TrainOptions(device="cpu", budget=1.0))
    before = content(run.path)
    resume(run.path, data)
    assert content(run.path) == before


@SLOW
def test_a_run_that_is_stopped_before_its_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long runs leave a row every 200th of their length: no row is missing and none is added by a stop."""
    long = override(recipe(), {"epochs": 30})
    original, calls = loop.train_step, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    data = open_dataset("digits")
    whole = train(long, data, tmp_path / "whole", TrainOptions(device="cpu"))
    monkeypatch.setattr(loop, "train_step", interrupted)
    run = train(long, data, tmp_path / "run", TrainOptions(device="cpu"))
    assert (run.summary["steps"], run.metrics("step")) == (2, [])
    resume(run.path, data)
    assert rows(run.path) == rows(whole.path)


def test_a_longer_run_says_how_to_repeat_it(tmp_path: Path) -> None:
    data = open_dataset("digits")
    options = TrainOptions(data="digits", device="cpu", epochs=2, settings={"min_steps": "0", "ema": "0.9"})
    train(recipe(), data, tmp_path / "run", options)
    run = resume(tmp_path / "run", data, epochs=3)
    words = ["daybreak", "train", "digits", "--epochs", "3", "--device", "cpu", "--set", "ema=0.9"]
    assert run.config["command"] == words


def test_a_run_is_not_made_longer_to_less_than_it_has(run: Path) -> None:
    """An interrupted one neither: its cycle would have ended before."""
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}")  # as if it had been killed at step 35
    (run / "summary.json").unlink()
    with pytest.raises(UsageError, match="is as long already, with 35 steps"):
        go_on(str(run), epochs=1)
    go_on(str(run), epochs=3)
    assert RunDirectory.open(run).summary["steps"] == 60


def test_a_run_of_the_cpu_goes_on_there(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resume_run(path: Path, _: Any, options: TrainOptions, **__: Any) -> RunDirectory:
        asked.append(options.device)
        return RunDirectory.open(path)

    monkeypatch.setattr(api, "resume_run", resume_run)
    for device in ("auto", "cuda"):
        api.resume(finished, device=device, report=False)
    assert asked == ["cpu", "cuda"]
