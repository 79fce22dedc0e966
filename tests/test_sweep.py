"""Sweeps: what is searched, what comes out, and that it can be repeated, gone on with and interrupted."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from image_sets import photographs
from playwright.sync_api import Browser

import daybreak as db
from daybreak import cli
from daybreak.core.config import override
from daybreak.core.errors import DataError, DaybreakError, RunError, StorageError, UsageError
from daybreak.recipes import RECIPES, read_toml
from daybreak.sweeping import sweep as sweeping
from daybreak.sweeping import trial as trials_module
from daybreak.sweeping import worker
from daybreak.sweeping.setting import Asked, settle
from daybreak.sweeping.space import read_space, with_settings
from daybreak.sweeping.storage import open_storage, without_password
from daybreak.sweeping.worker import make_sampler

SHORT = {"model.width": 0.1, "epochs": 2, "min_steps": 0, "precision": "float32"}
SMALL = override(RECIPES["small"], SHORT)
SPACE = {"schedule.max_lr": {"low": 0.01, "high": 0.5, "log": True}, "batch_size": {"choices": [64, 128]}}
TRIALS = 4  # of `swept`
RATES = {"schedule.max_lr": {"choices": [0.1, 1e-6, 2e-6]}}


def sweep(out: Path, trials: int | None = 4, space: Any = SPACE, **options: Any) -> dict[str, Any]:
    return db.sweep("digits", space, trials, recipe=SMALL, device="cpu", out=out, **options)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return sweep(tmp_path_factory.mktemp("sweep") / "sweep", TRIALS)


# -- the space --------------------------------------------------------------------------------------------------------


def test_a_space_is_a_table_a_key(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        "[schedule.max_lr]\nlow = 0.01\nhigh = 1\nlog = true\n"
        "[batch_size]\nlow = 32\nhigh = 128\nstep = 32\n"
        "[augment.rotation]\nlow = 0\nhigh = 20\n"
        "[augment.flip]\nchoices = ['none', 'random']\n"
        "[schedule.momentum]\nchoices = [[0.85, 0.95], [0.8, 0.9]]\n"
    )
    found = {p.key: p for p in read_space(file, SMALL).parameters}
    assert list(found) == sorted(found)
    peak, batch, rotation = (found[key] for key in ("schedule.max_lr", "batch_size", "augment.rotation"))
    assert (peak.low, peak.high, peak.log, peak.whole) == (0.01, 1, True, False)
    assert batch.points() == [32, 64, 96, 128]
    assert not rotation.whole  # degrees need not be whole, though these are written so
    assert found["augment.flip"].points() == ["none", "random"]
    fixed = optuna.trial.FixedTrial({"schedule.momentum": "[0.8, 0.9]"})
    assert found["schedule.momentum"].suggest(fixed) == [0.8, 0.9]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[schedule.max_lrr]\nlow = 0.1\nhigh = 1", r"schedule.max_lrr: unknown key .*; try: 'schedule.max_lr'"),
        ("[shedule.max_lr]\nlow = 0.1\nhigh = 1", r"no section 'shedule'.*; try: 'schedule'"),
        ("[batch_size]\nlow = 1\nhigh = 64", r"batch_size: .*greater than or equal to 2 \(got 1\)"),
        ("[augment.flip]\nchoices = ['none', 'upside-down']", r"augment.flip: .*upside-down"),
        ("[batch_size]\nlow = 64\nhigh = 32", r"batch_size: low must be below high"),
        ("[schedule.max_lr]\nlow = 0.0\nhigh = 1\nlog = true", r"log needs a low above zero"),
        ("[batch_size]\nlow = 2\nhigh = 8\nsteps = 2", r"batch_size.steps: unknown key"),
        ("[batch_size]\nchoices = []", r"batch_size.choices: "),
        ("[size]\nchoices = [16, 32]", r"size: cannot be searched"),
        ("batch_size = 3", r"batch_size: not a table"),
        ("", r"no key to search"),
        ("[", r"cannot be read"),
    ],
)
def test_what_is_no_space_is_said_before_anything_is_trained(text: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(UsageError, match=error):
        read_space(tmp_path / "space.toml", SMALL)


def test_a_peak_alone_takes_the_cycle_along() -> None:
    base = override(SMALL, {"schedule.initial_lr": 0.05, "schedule.final_lr": 0.01})
    schedule = with_settings(base, {"schedule.max_lr": 0.02}).schedule
    assert (schedule.max_lr, schedule.initial_lr, schedule.final_lr) == pytest.approx((0.02, 0.01, 0.002))
    both = with_settings(base, {"schedule.max_lr": 0.2, "schedule.initial_lr": 0.1}).schedule
    assert (both.max_lr, both.initial_lr, both.final_lr) == (0.2, 0.1, 0.01)


def test_a_grid_is_every_combination_once() -> None:
    tables = {"batch_size": {"low": 32, "high": 64, "step": 32}, "augment.flip": {"choices": ["none", "random"]}}
    points = read_space(tables, SMALL).grid()
    assert sorted((p["batch_size"], p["augment.flip"]) for p in points) == [
        (32, "none"), (32, "random"), (64, "none"), (64, "random"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="a grid needs values that can be counted"):
        read_space(SPACE, SMALL).grid()


# -- the setting ------------------------------------------------------------------------------------------------------


def asked(**values: Any) -> Asked:
    return Asked(**{"data": "digits", "space": SPACE, "trials": 4, "recipe": SMALL, "device": "cpu"} | values)


@pytest.mark.parametrize(("size", "recipe", "side"), [(64, "small", 64), (None, "finetune", 224)])
def test_photos_are_searched_with_the_recipe_that_trains_them(
    tmp_path: Path, size: int | None, recipe: str, side: int
) -> None:
    setting = settle(asked(data=str(photographs(tmp_path / "photos")), recipe=None, size=size))
    assert (setting.base.name, setting.dataset.decode.size) == (recipe, side)


def test_no_trial_can_look_at_the_test_part() -> None:
    setting = settle(asked())
    assert setting.dataset.test is setting.dataset.validation
    assert len(setting.dataset.test.labels_N) == pytest.approx(0.1 * 1437, abs=10)
    real = db.open_dataset("digits", validate=0.1)
    assert set(setting.dataset.test.names).isdisjoint(real.test.names)
    assert set(setting.dataset.test.names).isdisjoint(setting.dataset.train.names)


def test_who_asks_for_the_same_meets_in_the_same_study() -> None:
    mine = settle(asked())
    assert settle(asked(trials=40)).study == mine.study
    assert settle(Asked.of(json.loads(json.dumps(asked().as_json())))).study == mine.study
    others = [{"seed": 1}, {"seeds": 2}, {"sampler": "random"}, {"prune": False}, {"split_seed": 1}, {"validate": 0.2}]
    others += [{"budget": 5.0}, {"settings": {"batch_size": 32}}, {"space": RATES}, {"recipe": "small"}]
    assert len({settle(asked(**other)).study for other in others} | {mine.study}) == len(others) + 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"sampler": "tpee"}, r"--sampler tpee: no such sampler; try: 'tpe'"),
        ({"trials": None}, r"--trials is missing"),
        ({"trials": 0}, r"--trials and --seeds are counts"),
        ({"validate": 0.0}, r"--validate 0: trials are evaluated on the validation part"),
        ({"budget": 5.0, "epochs": 1}, r"--budget and --epochs"),
        ({"budget": -1.0}, r"--budget -1.0: not a duration"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        settle(asked(**options))


def test_every_place_has_random_numbers_of_its_own() -> None:
    make = make_sampler(settle(asked(sampler="random")))
    drawn = [optuna.create_study(sampler=make(place)).ask().suggest_float("x", 0, 1) for place in (0, 1, 2, 0)]
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]


# -- what comes out ---------------------------------------------------------------------------------------------------


def test_the_result_is_a_table_with_the_best_first_place(swept: dict[str, Any]) -> None:
    rows = swept["trials"]
    assert [row["trial"] for row in rows] == list(range(TRIALS))
    assert all(row["settings"].keys() == SPACE.keys() for row in rows)
    finished = [row for row in rows if row["state"] == "complete"]
    best = swept["best"]
    assert best["val_acc"] == max(row["val_acc"] for row in finished)
    assert best["settings"] == rows[best["trial"]]["settings"]
    assert 0.01 <= best["settings"]["schedule.max_lr"] <= 0.5
    assert sum(swept["counts"].values()) == TRIALS
    assert swept["shared_machine"] is False
    out = Path(swept["out"])
    stored = json.loads((out / "sweep.json").read_text())
    assert stored["trials"] == json.loads(json.dumps(rows))
    lines = list(csv.DictReader((out / "trials.csv").open()))
    assert [float(line["schedule.max_lr"]) for line in lines] == [row["settings"]["schedule.max_lr"] for row in rows]
    assert [float(line["val_acc"]) for line in lines] == [row["val_acc"] for row in rows]


def test_the_recipe_repeats_the_best_trial_exactly(swept: dict[str, Any], tmp_path: Path) -> None:
    recipe = read_toml(Path(swept["recipe"]))
    best = swept["best"]["settings"]
    assert (recipe.batch_size, recipe.schedule.max_lr) == (best["batch_size"], best["schedule.max_lr"])
    words = swept["command"].split()
    assert words[:3] == ["daybreak", "train", "digits"]
    assert cli._run([*words[1:], "--device", "cpu", "--out", str(tmp_path / "run"), "--no-report", "-q"]) == 0
    summary = db.load(tmp_path / "run").directory.summary
    assert summary["val_acc"] == swept["best"]["val_acc"]
    assert summary["test_acc"] is not None


def test_the_command_repeats_a_trial_that_took_uneven_classes_as_they_are(tmp_path: Path) -> None:
    """Left to itself the training that repeats it would even them out."""
    digits = db.open_dataset("digits")
    x, y = digits.train.images_NHWC[:, :, :, 0], digits.train.labels_N
    kept = (y > 0) | (np.cumsum(y == 0) <= 20)
    np.savez(tmp_path / "uneven.npz", x_train=x[kept], y_train=y[kept], x_test=x[:50], y_test=y[:50])
    found = settle(asked(data=str(tmp_path / "uneven.npz"), recipe="small"))
    assert "--balance none" in " ".join(found.repeats(tmp_path / "best.toml", "none").command())
    assert "--balance" not in " ".join(found.repeats(tmp_path / "best.toml", "weights").command())
    even = settle(asked())
    assert "--balance" not in " ".join(even.repeats(tmp_path / "best.toml", "none").command())


def test_it_goes_on_where_it_stopped_and_one_worker_finds_the_same_again(swept: dict[str, Any], tmp_path: Path) -> None:
    first = sweep(tmp_path / "out", 2)
    more = sweep(tmp_path / "out", TRIALS)
    assert more["trials"][:2] == first["trials"]  # nothing was trained again
    facts = [[(row["settings"], row["val_acc"], row["state"]) for row in found["trials"]] for found in (swept, more)]
    assert facts[0] == facts[1]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="has something in it that is no sweep"):
        sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_trials_without_prospects_are_ended_early(tmp_path: Path) -> None:
    found = sweep(tmp_path / "out", None, RATES, sampler="grid", epochs=3)
    assert [row["state"] for row in found["trials"]] == ["complete", "pruned", "pruned"]
    assert [row["epochs"] for row in found["trials"]] == [3, 1, 1]
    assert found["best"]["settings"] == {"schedule.max_lr": 0.1}
    assert [step for step, _ in found["trials"][0]["curve"]] == [0.333, 0.667, 1.0]


@pytest.mark.parametrize(("epochs", "first"), [(2, 500), (4, 250), (24, 111), (None, 111)])
def test_the_first_rung_is_an_epoch_at_least(epochs: int | None, first: int) -> None:
    pruner = trials_module.make_pruner(epochs)
    assert pruner._min_resource == first  # type: ignore[attr-defined]


def test_a_loss_that_is_not_finite_is_a_result_and_not_tried_again(tmp_path: Path) -> None:
    found = sweep(tmp_path / "out", None, {"optimizer.head_lr": {"choices": [0.67, 1e30]}}, sampler="grid")
    assert [row["state"] for row in found["trials"]] == ["complete", "failed"]
    bad = found["trials"][1]
    assert "the loss is" in bad["why"]
    assert (bad["attempts"], bad["val_acc"]) == (1, None)


def test_settings_that_do_not_go_together_fail_alone(tmp_path: Path) -> None:
    space = {"schedule.max_lr": {"choices": [0.1]}, "schedule.initial_lr": {"choices": [0.1, 0.2]}}
    found = sweep(tmp_path / "out", None, space, sampler="grid")
    assert [row["state"] for row in found["trials"]] == ["complete", "failed"]
    assert "max_lr 0.1 is below initial_lr 0.2" in found["trials"][1]["why"]


def test_a_sweep_without_any_accuracy_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no trial came to an accuracy .*the loss is"):
        sweep(tmp_path / "out", None, {"optimizer.head_lr": {"choices": [1e30]}}, sampler="grid")


def test_several_seeds_count_by_their_mean(tmp_path: Path) -> None:
    space = {"batch_size": {"choices": [64]}}
    found = sweep(tmp_path / "out", None, space, sampler="grid", seeds=3, seed=5, epochs=1)
    values = found["best"]["values"]
    assert len(set(values)) > 1  # after one epoch; on some processors two of them are the same
    assert found["best"]["val_acc"] == pytest.approx(sum(values) / 3, rel=1e-12)
    options: dict[str, Any] = {"recipe": SMALL, "epochs": 1, "validate": 0.1, "device": "cpu", "report": False}
    runs = [db.train("digits", seed=seed, out=tmp_path / str(seed), **options) for seed in (5, 6, 7)]
    assert values == [run.summary.val_acc for run in runs]


def test_a_budget_bounds_each_trial(tmp_path: Path) -> None:
    found = sweep(tmp_path / "out", 2, budget=0.5, prune=False)
    assert all(0.2 < row["train_seconds"] < 2 for row in found["trials"])
    assert "--budget 0.5" in found["command"]


def test_cma_es_searches_too(tmp_path: Path) -> None:
    space = {"schedule.max_lr": {"low": 0.01, "high": 0.5, "log": True}, "label_smoothing": {"low": 0.0, "high": 0.2}}
    found = sweep(tmp_path / "out", 3, space, sampler="cmaes", epochs=1)
    drawn = [row["settings"]["label_smoothing"] for row in found["trials"]]
    assert len(set(drawn)) == 3


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_everything_offline_in_both_themes(swept: dict[str, Any], browser: Browser) -> None:
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(Path(swept["report"]).as_uri())
    assert [url for url in requests if not url.startswith("data:")] == [Path(swept["report"]).as_uri()]
    assert "Sweep of small on digits" in page.title()
    assert [h.inner_text() for h in page.locator("h2").all()] == [
        "Best settings", "History", "Importance", "Parallel coordinates", "Slices", "Trials",
    ]  # fmt: skip
    widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(widths) == 4
    assert min(widths) > 200
    assert page.locator("h2#trials + div tr").count() == 1 + TRIALS
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    plots = page.evaluate("[...document.images].map((image) => getComputedStyle(image).backgroundColor)")
    assert set(plots) == {"rgb(255, 255, 255)"}  # black lines need white paper in the dark theme too
    assert complaints == []
    page.close()


# -- the command line -------------------------------------------------------------------------------------------------


def line(out: Path, trials: int, *more: object) -> list[str]:
    recipe = out.with_suffix(".toml")
    if not recipe.exists():
        db_recipe = override(SMALL, {"epochs": 3})
        from daybreak.recipes import to_toml

        recipe.write_text(to_toml(db_recipe))
        out.with_suffix(".space").write_text("[schedule.max_lr]\nlow = 0.01\nhigh = 0.5\nlog = true\n")
    words = ["sweep", "digits", "--space", out.with_suffix(".space"), "--trials", trials, "--recipe", recipe]
    return [str(word) for word in [*words, "--device", "cpu", "--out", out, "--no-prune", *more]]


def start(words: list[str], **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "daybreak", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_the_command_prints_best_trials_and_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(line(tmp_path / "out", 2, "--json", "-q")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["settings"].keys() == {"schedule.max_lr"}
    assert len(found["trials"]) == 2
    assert tomllib.loads(Path(found["recipe"]).read_text())["name"] == "small-swept"
    assert cli._run(line(tmp_path / "out", 2)) == 0
    shown = capsys.readouterr()
    assert "2 trials: 2 complete, 0 pruned, 0 failed" in shown.out
    assert f"recipe: {found['recipe']}" in shown.out


def test_a_signal_gives_the_trial_back_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = line(tmp_path / "out", 3, "--set", "epochs=400")
    process = start(words)
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("epoch"):
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the trial went back to the queue; the same command goes on" in rest
    storage = open_storage(str(tmp_path / "out" / "journal.log"))
    (study,) = storage.get_all_studies()
    states = [trial.state.name for trial in storage.get_all_trials(study._study_id)]
    assert states == ["FAIL", "WAITING", "WAITING", "WAITING"]  # the last is the second attempt at the first
    first, *_, second = storage.get_all_trials(study._study_id)
    assert second.system_attrs["fixed_params"] == first.params
    assert second.user_attrs == {"place": 0, "attempt": 1}
    assert not (tmp_path / "out" / "best.toml").exists()


def test_workers_share_the_work_and_outlive_one_of_them(tmp_path: Path) -> None:
    """One of two is killed in the middle of a trial: the other runs it again, and all results are there, once."""
    import psutil

    process = start(line(tmp_path / "out", 6, "--workers", 2, "--json"))
    journal, victim = tmp_path / "out" / "journal.log", None
    deadline = time.monotonic() + 120
    while victim is None:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
        running = _running(journal)
        children = {child.pid for child in psutil.Process(process.pid).children()}
        victim = next((pid for pid in running if pid in children and len(running) == 2), None)
    os.kill(victim, signal.SIGKILL)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    found = json.loads(out)
    assert [row["trial"] for row in found["trials"]] == list(range(6))
    assert all(row["state"] == "complete" for row in found["trials"])
    assert sorted(row["attempts"] for row in found["trials"]) == [1, 1, 1, 1, 1, 2]
    assert found["shared_machine"] is True
    assert {row["threads"] for row in found["trials"]} == {max(1, len(os.sched_getaffinity(0)) // 2)}
    assert error.count("complete: val") == 6


def _running(journal: Path) -> list[int]:
    """The processes that run a trial, by the journal of a sweep."""
    if not journal.exists():
        return []
    storage = open_storage(str(journal))
    found = [t for study in storage.get_all_studies() for t in storage.get_all_trials(study._study_id)]
    return [t.user_attrs["worker"]["process"] for t in found if t.state.name == "RUNNING" and "worker" in t.user_attrs]


def test_an_error_of_the_workers_is_the_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_worker.py").write_text(
        "from daybreak.core.errors import DataError\nfrom daybreak.core.fanout import run_worker\n"
        "def work(job):\n    raise DataError('photos', 'gone', 'another folder')\nrun_worker(work)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(sweeping, "MODULE", "bad_worker")
    with pytest.raises(DaybreakError, match=r"^photos: gone; try: another folder$") as error:
        sweep(tmp_path / "out", 2, workers=2)
    assert error.value.exit_code == DataError.exit_code


def test_an_error_that_is_not_the_trials_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("disk", "full", "space")

    setting = settle(asked(trials=1))
    queue = worker.open_queue(setting, str(tmp_path / "journal.log"))
    with monkeypatch.context() as patch:
        patch.setattr(trials_module, "train", full)
        with pytest.raises(StorageError, match="disk: full"):
            worker.work(setting, queue, str(tmp_path / "journal.log"))
    (place,) = queue.places()
    assert [t.state.name for t in place.attempts] == ["FAIL", "WAITING"]
    assert place.deaths == 0


def test_a_storage_that_cannot_be_reached_is_one_line_without_the_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in ("postgresql://me:secret@127.0.0.1:1/sweeps", "redis://me:secret@127.0.0.1:1/0"):
        assert cli._run(line(tmp_path / "out", 2, "--storage", url)) == StorageError.exit_code
        error = capsys.readouterr().err
        assert error.startswith(f"error: {url.replace(':secret', '')}: the storage fails (")
        assert "secret" not in error
        assert error.count("\n") == 1


def test_unknown_storages_and_missing_packages_have_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--storage mongodb://x: no such kind of storage"):
        open_storage("mongodb://x")
    for package, url in (("psycopg2", "postgresql://x/y"), ("redis", "redis://x")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match=rf"{package} is not installed; try: pip install .*\[sweep\]"):
            open_storage(url)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"daybreak sweep: optuna is not installed; try: pip install .*\[sweep\]"):
        sweep(tmp_path / "out")


def test_a_password_is_never_shown() -> None:
    assert without_password("postgresql://me:secret@host:5432/db?sslmode=x") == "postgresql://me@host:5432/db"
    assert without_password("redis://:secret@host") == "redis://host"
    assert without_password("a file") == "a file"


def test_a_worker_that_was_taken_for_dead_stops_and_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker takes the trial away in its first epoch; the first one's result is thrown away."""
    setting = settle(asked(trials=1, prune=False))
    storage = str(tmp_path / "journal.log")
    mine, other = worker.open_queue(setting, storage), worker.open_queue(setting, storage)
    original, epochs = trials_module.PruningCallback.on_epoch, []

    def on_epoch(self: Any, epoch: Any) -> None:
        if not epochs:
            other._end(0, "FAIL")
            other.refill()
        epochs.append(epoch.row["epoch"])
        original(self, epoch)

    monkeypatch.setattr(trials_module.PruningCallback, "on_epoch", on_epoch)
    worker.work(setting, mine, storage)
    (place,) = mine.places()
    assert [t.state.name for t in place.attempts] == ["FAIL", "COMPLETE"]
    assert place.attempts[0].params == place.attempts[1].params
    assert epochs == [1, 1, 2]  # it stopped after the epoch in which it heard of it


def test_no_more_than_asked_for_is_taken(swept: dict[str, Any]) -> None:
    setting = settle(asked(trials=TRIALS))
    storage = open_storage(str(Path(swept["out"]) / "journal.log"))
    trials = storage.get_all_trials(storage.get_study_id_from_name(setting.study))
    assert [t.state.name for t in trials if t.state.name == "WAITING"] == []
    assert len(trials) == TRIALS


@pytest.fixture(autouse=True)
def _no_storage_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAYBREAK_STORAGE", raising=False)
