"""Runs, checkpoints, caches and recipe files from somebody else: none leads out of itself, none is a traceback."""

import json
import os
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_sets import sample_files, write_folder
from resuming import recipe

from daybreak import cli
from daybreak.core import files
from daybreak.core.config import override
from daybreak.core.errors import RunError, StorageError, UsageError
from daybreak.core.files import append_text, flush, open_unlinked, truncate, write_text
from daybreak.core.locks import LOCK, locked
from daybreak.core.sections import parse_value
from daybreak.data import Dataset, open_dataset
from daybreak.data import cache as cache_module
from daybreak.data.entry import DamagedEntryError, _sum_of, read_entry
from daybreak.models.pretrained import _pixels_beside, net_beside
from daybreak.models.winograd import choice
from daybreak.recipes import RECIPES, read_toml
from daybreak.runs.directory import RunDirectory
from daybreak.runs.metrics_rows import Kept, kept_until
from daybreak.sweeping.space import read_space
from daybreak.training import state
from daybreak.training.checkpoint import BEST, MANIFEST, Checkpoint, best, mark_best, newest, write
from daybreak.training.session import Session, prepare

OLD = Path(__file__).parent / "runs_of_0.1.0"
SECRET = "the only copy\n"
BRACKETS = "[" * 100_000
DIGITS = "9" * 5000  # Python reads 4,300


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's, which a stranger's directory points to."""
    path = tmp_path / "victim"
    path.write_text(SECRET)
    return path


# -- links -------------------------------------------------------------------------------------------------------------


def without_checkpoints(folder: Path) -> Path:
    """A run that begins anew when it is resumed."""
    run = shutil.copytree(OLD / "interrupted", folder / "run")
    shutil.rmtree(run / "checkpoints")
    (run / "summary.json").unlink()
    return run


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        (LOCK, 5, ".lock: cannot be written (Too many levels of symbolic links); try: "),
        ("metrics.jsonl", 4, "metrics.jsonl: is a link, and rows cannot be added to it; try: a whole copy of the run"),
    ],
)
def test_a_link_in_a_resumed_run_leads_nowhere(
    name: str, code: int, says: str, victim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = without_checkpoints(tmp_path)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli._run(["train", "--resume", str(run), "--no-report"]) == code
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert says in line
    assert victim.read_text() == SECRET
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_lock_that_is_a_link_keeps_a_directory_from_being_taken(victim: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / LOCK).symlink_to(victim)
    with pytest.raises(StorageError, match=r"\.lock: cannot be written \(Too many levels of symbolic links\)"):
        RunDirectory.check_new(out)
    with pytest.raises(StorageError, match=r"\.lock: cannot be written"), RunDirectory.create(out):
        pass
    assert victim.read_text() == SECRET
    (out / LOCK).unlink()
    with locked(out):
        assert (out / LOCK).read_text().startswith(f"process {os.getpid()} on ")


def test_what_is_added_cut_or_made_is_never_behind_a_link(victim: Path, tmp_path: Path) -> None:
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(victim)
    dangling.symlink_to(tmp_path / "made")
    for refused in (
        lambda: append_text(link, "more"),
        lambda: truncate(link, 0),
        lambda: append_text(dangling, "more"),
        lambda: flush(dangling),
    ):
        with pytest.raises(StorageError, match="Too many levels of symbolic links") as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert victim.read_text() == SECRET
    assert not (tmp_path / "made").exists()


def test_where_the_system_has_no_flag_for_it_links_are_refused_too(
    victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    monkeypatch.setattr(files, "NO_LINK", 0)
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        open_unlinked(tmp_path / "link", os.O_RDWR)
    append_text(victim, "and more\n")
    assert victim.read_text() == f"{SECRET}and more\n"


def test_a_temporary_name_that_is_a_link_is_not_written_through(victim: Path, tmp_path: Path) -> None:
    """Of a number that one has to know, as names are harder to guess than they were."""
    (tmp_path / f".a.txt.{os.getpid()}-{files.LIFE}.tmp").symlink_to(victim)
    path = write_text(tmp_path / "a.txt", "new")
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == (SECRET, "new", False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.txt", "victim"]


def test_what_is_only_read_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").write_text(json.dumps(epoch(1)) + "\n")
    (tmp_path / "run" / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    assert RunDirectory(tmp_path / "run").metrics("epoch") == [epoch(1)]


# -- metrics -----------------------------------------------------------------------------------------------------------


def epoch(n: int, **more: Any) -> dict[str, Any]:
    position = {"progress": 0.5, "lr": 0.1, "momentum": 0.9, "size": 32, "train_seconds": 1.5, "batch_loss": None}
    measured = {"train_loss": 0.5, "train_acc": 0.25, "test_loss": 2.5, "test_acc": n / 3}
    return {"event": "epoch", "epoch": n, "step": n, **position, **measured, **more}


@pytest.mark.parametrize(
    "line",
    [
        json.dumps(epoch(2)).encode()[:-1] + b', "note": "\xed\xa0\x80"}',  # half a surrogate pair
        json.dumps(epoch(2)).encode("utf-16-be"),
        b"\xef\xbb\xbf" + json.dumps(epoch(2)).encode(),
    ],
    ids=["surrogate", "utf-16", "mark"],
)
def test_a_row_that_is_not_utf_8_is_damage(line: bytes) -> None:
    first = json.dumps(epoch(1)) + "\n"
    log = first.encode() + line + b"\n"
    assert kept_until(2, len(log), log, "") == Kept(first, "metrics.jsonl was damaged: 1 rows of it are kept")


def test_a_table_with_an_endless_field_gives_what_stands_before_it(tmp_path: Path) -> None:
    RunDirectory(tmp_path).append_metrics(epoch(1))
    table = (tmp_path / "metrics.csv").read_text() + "9" * 200_000 + ",1\n"
    kept = kept_until(2, 9, b"", table)
    assert [json.loads(line) for line in kept.text.splitlines()] == [epoch(1)]
    assert kept.damage == "metrics.jsonl was damaged: 0 rows of it and 1 of metrics.csv are kept"


def test_half_a_surrogate_pair_stands_in_the_table_as_its_escape(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(epoch(1, note="\ud800")) + "\n")
    run = RunDirectory(tmp_path)
    run.keep_metrics(run.metrics_until(1, (tmp_path / "metrics.jsonl").stat().st_size))
    assert run.metrics("epoch") == [epoch(1, note="\ud800")]
    header, row = (tmp_path / "metrics.csv").read_text().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True))["note"] == r"\ud800"


# -- checkpoints -------------------------------------------------------------------------------------------------------


def made(step: int) -> Checkpoint:
    facts = {"step": step, "skipped": 0, "sizes": {"32": 3}, "spent": {}, "metrics_bytes": 0, "circumstances": {}}
    return Checkpoint({"net.weight": torch.full((3, 4), float(step))}, facts)


def step_of(found: Checkpoint | None) -> int:
    assert found is not None
    return int(found.facts["step"])


@pytest.mark.parametrize("text", [BRACKETS, DIGITS], ids=["brackets", "digits"])
def test_behind_a_manifest_that_cannot_be_read_the_one_before_is_used(text: str, tmp_path: Path) -> None:
    write(tmp_path, made(1))
    (write(tmp_path, made(2)) / MANIFEST).write_text(text)
    found, notes = newest(tmp_path)
    assert step_of(found) == 1
    assert notes == ["step-00000002 is damaged (manifest.json cannot be read), kept as damaged-step-00000002"]


@pytest.mark.parametrize(
    "mark",
    ['{"step": Infinity}', '{"step": -1e999}', '{"step": NaN}', BRACKETS, DIGITS],
    ids=["infinity", "overflow", "nan", "brackets", "digits"],
)
def test_a_mark_that_is_no_step_is_none(mark: str, tmp_path: Path) -> None:
    write(tmp_path, made(1))
    (tmp_path / BEST).write_text(mark)
    assert best(tmp_path) is None
    for step in (2, 3):
        write(tmp_path, made(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, "step-00000002", "step-00000003"]


def test_steps_of_nine_digits_come_after_those_of_eight(tmp_path: Path) -> None:
    for step in (99_999_998, 99_999_999, 100_000_000, 1_000_000_000):
        write(tmp_path, made(step))
        assert step_of(newest(tmp_path)[0]) == step
    assert {path.name for path in tmp_path.iterdir()} == {"step-100000000", "step-1000000000"}


def test_a_folder_without_a_step_is_no_checkpoint(tmp_path: Path) -> None:
    """It is neither read nor removed."""
    (tmp_path / "step-by-step").mkdir()
    assert newest(tmp_path) == (None, [])
    for step in (1, 2, 3):
        write(tmp_path, made(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003", "step-by-step"]


@pytest.fixture
def session(digits: Dataset) -> Session:
    return prepare(override(recipe("page"), {"model.width": 0.05}), digits, 0, torch.device("cpu"))


def test_random_states_of_another_kind_do_not_fit(session: Session) -> None:
    with torch.random.fork_rng(devices=[]):
        saved = state.capture(session)
        state.restore(session, saved)  # the control
        tensors = saved.tensors | {"random.cpu": saved.tensors["random.cpu"].float()}
        with pytest.raises(RunError, match=r"checkpoint of step 0: does not fit the recipe's net \(") as caught:
            state.restore(session, Checkpoint(tensors, saved.facts))
    assert "\n" not in str(caught.value)


def test_the_best_of_another_net_is_one_line(session: Session, tmp_path: Path) -> None:
    write(tmp_path, made(5))
    mark_best(tmp_path, 5)
    with pytest.raises(RunError, match=r"checkpoint of step 5: does not fit the recipe's net \(") as caught:
        state.take_best(session, tmp_path)
    assert "\n" not in str(caught.value)


# -- the cache ---------------------------------------------------------------------------------------------------------


def array_of(length: int) -> bytes:
    """A file of numpy's with this length in its header, whatever follows."""
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<i8", "fortran_order": False, "shape": (length,)})
    return buffer.getvalue() + bytes(64)


def describe(entry: Path, **sizes: int) -> None:
    """Other sizes in an entry's description, with a sum that fits."""
    meta = json.loads((entry / "meta.json").read_text())
    meta["sizes"] |= sizes
    del meta["sum"]
    (entry / "meta.json").write_text(json.dumps(meta | {"sum": _sum_of(meta)}))


@pytest.fixture
def entry(cache: Path, tmp_path: Path) -> Path:
    open_dataset(write_folder(tmp_path / "set", sample_files()))
    (found,) = (path for path in (cache / "decoded").iterdir() if not path.name.startswith("."))
    describe(found)
    assert read_entry(found) is not None  # the control
    return found


@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy"])
@pytest.mark.parametrize(
    "content",
    [array_of(-1000), array_of(10**30), b"PK\5\6" + bytes(18)],
    ids=["below zero", "beyond all", "an empty archive"],
)
def test_an_array_that_cannot_be_is_damage(content: bytes, name: str, entry: Path) -> None:
    (entry / name).write_bytes(content)
    describe(entry, **{name: len(content)})
    part = name.partition("_")[0]
    with pytest.raises(DamagedEntryError, match=f"an array of the {part} part cannot be read"):
        read_entry(entry)


def test_a_name_that_no_file_can_have_is_damage(entry: Path) -> None:
    describe(entry, **{"a\0b": 1})
    with pytest.raises(DamagedEntryError, match="is missing or has another size"):
        read_entry(entry)


@pytest.mark.parametrize("text", [BRACKETS, DIGITS], ids=["brackets", "digits"])
@pytest.mark.usefixtures("cache")
def test_shortcuts_that_cannot_be_read_are_not_taken(text: str, tmp_path: Path) -> None:
    cache_module.remember("here", "stamp", "content")
    assert cache_module.recall("here", "stamp") == "content"
    cache_module._seen("here").write_text(text)
    assert cache_module.recall("here", "stamp") is None
    (tmp_path / "chosen.json").write_text(text)
    assert choice._read(tmp_path / "chosen.json") == {}


# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [DIGITS, "[" * 2000], ids=["digits", "brackets"])
def test_a_value_that_python_cannot_read_makes_a_file_unreadable(value: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f"epochs = {value}\n")
    for read in (read_toml, lambda path: read_space(path, RECIPES["small"])):
        with pytest.raises(UsageError, match=r"mine\.toml: cannot be read \(") as caught:
            read(tmp_path / "mine.toml")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [DIGITS, BRACKETS, 16**5000], ids=["digits", "brackets", "number"])
def test_a_setting_that_python_cannot_read_is_a_wrong_value(value: object) -> None:
    assert parse_value(value) is value
    with pytest.raises(UsageError, match=r"epochs: .* \(got ") as caught:
        override(RECIPES["small"], {"epochs": value})
    assert len(str(caught.value)) < 500


def test_a_key_of_a_thousand_parts_is_no_space(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(f"[{'.'.join('a' * 3000)}]\nlow = 1\nhigh = 2\n")
    with pytest.raises(UsageError, match="its tables are nested too deeply"):
        read_space(tmp_path / "space.toml", RECIPES["small"])


# -- weights -----------------------------------------------------------------------------------------------------------


def test_a_net_with_options_that_are_not_ours_is_one_line(tmp_path: Path) -> None:
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    card.write_text(json.dumps({"net": {"name": "sprint", "width": 0.5}}))
    assert net_beside(weights) == {"name": "sprint", "width": 0.5}
    for model, key in (({"wings": 2}, "net.wings"), ({"width": -1}, "net.width"), ({"name": []}, "net.name")):
        card.write_text(json.dumps({"net": {"name": "sprint"} | model}))
        with pytest.raises(RunError, match=rf"model\.json: {key}: .*; try: --net NAME") as caught:
            net_beside(weights)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.json"])
@pytest.mark.parametrize(
    ("values", "why"),
    [
        ('{"mean": [], "std": []}', "mean is not one to three finite numbers;"),
        ('{"mean": [%s], "std": [1]}' % ("9" * 400), "mean is not one to three finite numbers;"),
        ('{"mean": [1e999], "std": [1]}', "mean is not one to three finite numbers;"),
        ('{"mean": ["a"], "std": [1]}', "mean is not one to three finite numbers;"),
        ('{"mean": [0, 0, 0, 0], "std": [1]}', "mean is not one to three finite numbers;"),
        ('{"mean": [0], "std": [1, 0, 1]}', "std is not above 0;"),
        ('{"mean": [0], "std": [NaN]}', "std is not one to three finite numbers;"),
        ('{"pretrained_cfg": {"mean": [0], "std": [-1]}}', "std is not above 0;"),
    ],
    ids=["none", "400 digits", "infinite", "text", "four", "zero", "nan", "below zero"],
)
def test_images_cannot_be_normalised_by_such_numbers(values: str, why: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(values)
    with pytest.raises(RunError, match=rf"{name}: {why}"):
        _pixels_beside(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"mean": [0, -0.5, 0.5], "std": [0.5]}, ((0.0, -0.5, 0.5), (0.5,))),
        ({"pretrained_cfg": {"mean": [0.5], "std": [0.25]}}, ((0.5,), (0.25,))),
        ({"mean": 0.0, "std": 0.02}, None),  # of how something was initialised
        ({"mean": [0.5]}, None),
        ({"pretrained_cfg": []}, None),
        ([], None),
    ],
)
def test_a_card_says_how_images_were_normalised_or_does_not(values: Any, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert _pixels_beside(tmp_path / "weights.safetensors") == expected


def test_weights_of_a_run_of_0_1_0_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its net has the options of all nets; they are not understood here."""
    command = ["train", "digits", "--recipe", "small", "--weights", str(OLD / "finished"), "--out", str(tmp_path / "o")]
    assert cli._run(command) == 4
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert "model.json: net." in line
    assert not (tmp_path / "o").exists()
