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
from typing import Any

import numpy as np
import pytest
import torch
from resuming import STEPS, begin, begin_or_go_on, files, final_state, go_on, recipe, rows

from daybreak import api
from daybreak.core.config import override
from daybreak.core.errors import RunError, StorageError, UsageError
from daybreak.data import open_dataset
from daybreak.runs.directory import RunDirectory
from daybreak.training import checkpoint, loop
from daybreak.training import train as training
from daybreak.training.checkpoint import TENSORS
from daybreak.training.schedule import learning_rate
from daybreak.training.state import Every
from daybreak.training.train import resume, train

Count = Callable[[str, object], None]
SOAK = bool(os.environ.get("DAYBREAK_SOAK"))
POINTS = range(1, STEPS + 1) if SOAK else (1, 7, 19, 20, 21, 33, 39)
KILLS = 300 if SOAK else 20


@pytest.fixture(
    scope="module",
    params=[("page", "float32"), ("page", "bfloat16"), ("sprint", "float32"), ("sprint", "bfloat16")],
    ids="-".join,
)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped, with a checkpoint of every step."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "KEPT", STEPS)
        begin(str(out), *request.param, every=1)
    return out


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
    forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the matrix: a state without this part does not end the same."""
    monkeypatch.setattr(checkpoint, "KEPT", STEPS)
    begin(str(tmp_path / "whole"), every=10)
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "whole", run)
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}")
    original = checkpoint.read

    def forgetful(path: Path) -> checkpoint.Checkpoint:
        found = original(path)
        fresh = original(tmp_path / "whole" / "checkpoints" / "step-00000010").tensors
        kept = {k: fresh[k] if k.startswith(forgotten) else v for k, v in found.tensors.items()}
        return checkpoint.Checkpoint(kept, found.facts)

    monkeypatch.setattr(checkpoint, "read", forgetful)
    go_on(str(run))
    assert final_state(run) != final_state(tmp_path / "whole")


# -- kill -9 ----------------------------------------------------------------------------------------------------------


def in_a_process(out: Path) -> Any:
    """Train or resume in a process of its own: forked from a server that has imported everything and run nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["daybreak.training.train", "daybreak.data.open"])
    process = context.Process(target=begin_or_go_on, args=(str(out),))
    process.start()
    return process


def wait_for_a_checkpoint(process: Any, run: Path) -> None:
    while process.is_alive() and not any(run.glob("checkpoints/step-*")):
        time.sleep(0.002)


def test_killed_at_any_moment_it_ends_the_same(tmp_path: Path, record_property: Count) -> None:
    """20 times here; `make soak` does 300."""
    in_a_process(tmp_path / "warm").join()  # the server starts
    reference, rng, begun = tmp_path / "reference", np.random.default_rng(0), time.monotonic()
    process = in_a_process(reference)
    wait_for_a_checkpoint(process, reference)
    first = time.monotonic()
    process.join()
    lasts, rest, midway = time.monotonic() - begun, time.monotonic() - first, 0
    record_property("trials", KILLS)
    for number in range(KILLS):
        out = tmp_path / str(number)
        process = in_a_process(out)
        if number % 2:  # after its first checkpoint, however slow the machine is just now
            wait_for_a_checkpoint(process, out)
        time.sleep(rng.uniform(0, rest if number % 2 else lasts))
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
    assert midway >= KILLS / 5  # between the first checkpoint and the end


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["evaluate_epoch", "predict_test", "train_step"])
def test_a_signal_in_any_phase_loses_nothing(phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, run = tmp_path / "reference", tmp_path / "run"
    begin(str(reference))
    home = training if phase == "predict_test" else loop
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
    assert final_state(run) == final_state(reference)
    assert rows(run) == rows(reference)
    assert RunDirectory.open(run).summary["interrupted"] is None


def test_the_command_line_resumes(tmp_path: Path) -> None:
    """A real process, a real signal: 143, then the same line with --resume ends where an unbroken run does."""
    options = ["--epochs", "60", "--set", "model.width=0.1", "--set", "precision=float32", "--no-report", "--json"]
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


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(str(run))
    expected = final_state(run)
    (run / "checkpoints" / f"step-{STEPS:08d}" / TENSORS).write_bytes(b"")
    notes: list[str] = []
    go_on(str(run), on_event=lambda event: notes.extend(event.get("notes", []) if event["event"] == "start" else []))
    assert notes[0].startswith(
        f"step-{STEPS:08d} is damaged ({TENSORS} is not what manifest.json says), kept as damaged"
    )
    assert notes[1] == "resumed after step 35"
    assert final_state(run) == expected


def test_other_circumstances_are_named(tmp_path: Path) -> None:
    run, threads = tmp_path / "run", torch.get_num_threads()
    begin(str(run))
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


def test_a_finished_run_is_extended(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(str(run))
    with pytest.raises(UsageError, match="is finished already; try: --epochs"):
        go_on(str(run))
    go_on(str(run), epochs=3)
    directory = RunDirectory.open(run)
    assert [row["epoch"] for row in directory.metrics("epoch")] == [1, 2, 3]
    assert (directory.summary["steps"], directory.recipe.epochs) == (60, 3)
    cycle = recipe().schedule
    late = [row for row in directory.metrics("step") if row["step"] > STEPS]
    muon = [row["lr"] for row in late]
    assert muon == pytest.approx([learning_rate(cycle, (row["step"] - 1) / 60) for row in late])


def test_lengths_of_another_kind_are_refused(tmp_path: Path) -> None:
    begin(str(tmp_path / "run"))
    with pytest.raises(UsageError, match="its cycle is over epochs"):
        go_on(str(tmp_path / "run"), budget=10.0)


def test_a_budget_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = loop.train_step, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 13:
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(loop, "train_step", interrupted)
    data = open_dataset("digits")
    run = train(recipe(), data, tmp_path / "run", device="cpu", budget=2.0)
    before = run.metrics("step")[-1]
    assert run.summary["interrupted"] == signal.SIGINT
    run = resume(tmp_path / "run", data, device="cpu")
    after = [row for row in run.metrics("step") if row["step"] > before["step"]]
    assert all(row["progress"] > before["progress"] for row in after)
    assert after[0]["progress"] == pytest.approx(after[0]["train_seconds"] / 2.0, abs=0.01)
    assert after[-1]["progress"] > 0.9
    assert run.summary["interrupted"] is None


def test_killed_before_the_first_checkpoint_it_begins_anew_and_says_so(tmp_path: Path) -> None:
    begin(str(tmp_path / "whole"))
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tmp_path / "whole" / "config.json", run)
    (run / ".model.json.2000000000.tmp").write_text("half")  # no process has such a number
    notes: list[str] = []
    go_on(str(run), on_event=lambda event: notes.extend(event.get("notes", []) if event["event"] == "start" else []))
    assert notes == ["no checkpoint yet; from the beginning"]
    assert final_state(run) == final_state(tmp_path / "whole")
    assert files(run) == files(tmp_path / "whole")


def test_a_checkpoint_of_another_net_is_refused(tmp_path: Path) -> None:
    begin(str(tmp_path / "run"))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["recipe"]["model"]["width"] = 0.2
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="does not fit the recipe's net") as caught:
        go_on(str(tmp_path / "run"))
    assert caught.value.exit_code == 4


def test_predictions_of_older_weights_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run is extended and stopped on the way: what the old weights said is not what the new ones say."""
    begin(str(tmp_path / "run"))
    original = loop.train_step

    def interrupted(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(loop, "train_step", interrupted)
    go_on(str(tmp_path / "run"), epochs=3)
    directory = RunDirectory.open(tmp_path / "run")
    assert (directory.summary["steps"], directory.summary["interrupted"]) == (41, signal.SIGINT)
    assert directory.predictions() is None


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
    train(recipe(), open_dataset("digits"), tmp_path / "run", device="cpu", every=Every())
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]


def test_five_runs_are_one(tmp_path: Path) -> None:
    """With --deterministic five runs end in the same bits, whatever the process did before; another seed does not."""
    data, states = open_dataset("digits"), []
    for number, seed in enumerate([0, 0, 0, 0, 0, 1]):
        torch.manual_seed(number)
        run = train(recipe(), data, tmp_path / str(number), device="cpu", seed=seed, deterministic=True)
        states.append(final_state(run.path))
    assert len(set(states[:5])) == 1
    assert states[5] != states[0]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_disk_that_is_too_full_is_found_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"[\d,]+ bytes needed, 1,000 are free"):
        train(recipe(), open_dataset("digits"), tmp_path / "run", device="cpu")
    assert files(tmp_path / "run") == set()


def test_a_result_without_its_checkpoints_is_not_trained_over(tmp_path: Path) -> None:
    begin(str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "summary.json").read_bytes()
    with pytest.raises(RunError, match="missing, though the run has come to a result"):
        go_on(str(tmp_path / "run"), epochs=3)
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


def test_a_run_that_the_rule_has_ended_stays_ended(tmp_path: Path) -> None:
    """Finished by DAWNBench's rule after its first epoch; killed just before it had written its summary, too."""
    data = open_dataset("digits")
    options: dict[str, Any] = {"target": 0.01, "dawn_rule": True}
    run = train(recipe(), data, tmp_path / "run", device="cpu", **options)
    assert (run.summary["steps"], run.summary["target_met"]) == (20, True)
    with pytest.raises(UsageError, match="is finished already"):
        resume(run.path, data, device="cpu")
    (run.path / "summary.json").unlink()
    again = resume(run.path, data, device="cpu")
    assert (again.summary["steps"], again.summary["target_met"]) == (20, True)


def test_a_finished_budget_is_finished(tmp_path: Path) -> None:
    data = open_dataset("digits")
    train(recipe(), data, tmp_path / "run", device="cpu", budget=1.0)
    with pytest.raises(UsageError, match="is finished already"):
        resume(tmp_path / "run", data, device="cpu")


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
    whole = train(long, data, tmp_path / "whole", device="cpu")
    monkeypatch.setattr(loop, "train_step", interrupted)
    run = train(long, data, tmp_path / "run", device="cpu")
    assert (run.summary["steps"], run.metrics("step")) == (2, [])
    resume(run.path, data, device="cpu")
    assert rows(run.path) == rows(whole.path)


def test_a_longer_run_says_how_to_repeat_it(tmp_path: Path) -> None:
    data = open_dataset("digits")
    train(recipe(), data, tmp_path / "run", device="cpu", command=["daybreak", "train", "digits", "--epochs", "2"])
    run = resume(tmp_path / "run", data, device="cpu", epochs=3)
    assert run.config["command"] == ["daybreak", "train", "digits", "--epochs", "3"]


def test_a_run_is_not_made_longer_to_less_than_it_has(tmp_path: Path) -> None:
    """An interrupted one neither: its cycle would have ended before."""
    run = tmp_path / "run"
    begin(str(run))
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}")  # as if it had been killed at step 35
    (run / "summary.json").unlink()
    with pytest.raises(UsageError, match="is as long already, with 35 steps"):
        go_on(str(run), epochs=1)
    go_on(str(run), epochs=3)
    assert RunDirectory.open(run).summary["steps"] == 60


def test_a_run_of_the_cpu_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(str(tmp_path / "run"))
    asked: list[str] = []

    def resume_run(path: Path, *_: Any, device: str, **__: Any) -> RunDirectory:
        asked.append(device)
        return RunDirectory.open(path)

    monkeypatch.setattr(api, "resume_run", resume_run)
    for device in ("auto", "cuda"):
        api.resume(tmp_path / "run", device=device, report=False)
    assert asked == ["cpu", "cuda"]
