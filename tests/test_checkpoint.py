"""Checkpoints on disk: whole or not there, never believed unchecked."""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daybreak.core.clock import Every
from daybreak.core.errors import BusyError, RunError, StorageError, UsageError
from daybreak.core.files import whole_file
from daybreak.core.locks import LOCK, locked
from daybreak.training import checkpoint
from daybreak.training.checkpoint import (
    BEST,
    FACTS,
    MANIFEST,
    TENSORS,
    Checkpoint,
    best,
    mark_best,
    newest,
    read,
    read_step,
    write,
)

OTHER_FACTS: dict[str, Any] = {
    "skipped": 0, "sizes": {"32": 3}, "spent": {"train": 1.5}, "metrics_bytes": 7, "circumstances": {"cpu": "one"},
}  # fmt: skip

SOAK = bool(os.environ.get("DAYBREAK_SOAK"))


def made(step: int) -> Checkpoint:
    tensors = {"net.weight": torch.full((3, 4), float(step)), "ema.weight": torch.arange(6).to(torch.bfloat16)}
    return Checkpoint(tensors, {"step": step} | OTHER_FACTS)


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, made(3))
    found = read(path)
    assert found.facts == {"step": 3, "format": 1} | OTHER_FACTS
    assert found.tensors.keys() == made(3).tensors.keys()
    assert all(
        torch.equal(v, made(3).tensors[k]) and v.dtype == made(3).tensors[k].dtype for k, v in found.tensors.items()
    )
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest == {name: sha256((path / name).read_bytes()).hexdigest() for name in (TENSORS, FACTS)}


def test_the_last_two_stay_and_the_one_that_is_marked_as_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        write(tmp_path, made(step))
        if step in (2, 3):
            mark_best(tmp_path, step)
    assert steps(tmp_path) == [BEST, "step-00000003", "step-00000005", "step-00000006"]
    found = best(tmp_path)
    assert found is not None
    assert found.facts["step"] == 3


def test_without_a_mark_there_is_no_best(tmp_path: Path) -> None:
    for step in range(1, 5):
        write(tmp_path, made(step))
    assert (steps(tmp_path), best(tmp_path)) == (["step-00000003", "step-00000004"], None)


def test_a_damaged_best_is_not_used(tmp_path: Path) -> None:
    path = write(tmp_path, made(1))
    mark_best(tmp_path, 1)
    (path / TENSORS).write_bytes(b"damaged")
    with pytest.raises(RunError, match="step-00000001: is damaged"):
        best(tmp_path)


def test_there_never_was_one(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])


def test_a_copy_made_by_hand_counts_as_what_it_is_a_copy_of(tmp_path: Path) -> None:
    for step in (1, 2):
        write(tmp_path, made(step))
    shutil.copytree(tmp_path / "step-00000001", tmp_path / "step-00000001 copy 3")
    found, damaged = newest(tmp_path)
    assert found is not None
    assert (found.facts["step"], damaged) == (2, [])


@pytest.mark.parametrize("name", [TENSORS, FACTS, MANIFEST])
def test_a_damaged_one_is_set_aside_and_the_one_before_is_used(name: str, tmp_path: Path) -> None:
    write(tmp_path, made(1))
    broken = write(tmp_path, made(2)) / name
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    found, damaged = newest(tmp_path)
    assert found is not None
    assert found.facts["step"] == 1
    (line,) = damaged
    assert line.startswith("step-00000002 is damaged (")
    assert line.endswith("kept as damaged-step-00000002")
    assert (tmp_path / "damaged-step-00000002" / name).read_bytes() == content


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda facts: facts | {"step": -1}, "step"),
        (lambda facts: facts | {"step": "3"}, "step"),
        (lambda facts: facts | {"skipped": None}, "skipped"),
        (lambda facts: facts | {"sizes": {"wide": 3}}, "sizes"),
        (lambda facts: facts | {"spent": {"train": float("nan")}}, "spent.train"),
        (lambda facts: facts | {"metrics_bytes": 0.5}, "metrics_bytes"),
        (lambda facts: facts | {"circumstances": []}, "circumstances"),
        (lambda facts: facts | {"decided_by": 1}, "decided_by"),
        (lambda facts: {key: value for key, value in facts.items() if key != "spent"}, "spent"),
        (lambda facts: [facts], FACTS),
        (lambda facts: 3, FACTS),
    ],
)
def test_facts_that_were_edited_with_their_sum_are_not_used(
    edit: Callable[[Any], Any], named: str, tmp_path: Path
) -> None:
    write(tmp_path, made(1))
    path = write(tmp_path, made(2))
    put(path, FACTS, json.dumps(edit(json.loads((path / FACTS).read_text()))).encode())
    found, notes = newest(tmp_path)
    assert found is not None
    assert found.facts["step"] == 1
    assert named in notes[0]
    assert len(notes) == 1


@pytest.mark.parametrize("name", [FACTS, TENSORS])
@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"1" * 6000, b"\xff" * 7 + b"\x7f{}"])
def test_files_that_cannot_be_parsed_are_not_used(name: str, content: bytes, tmp_path: Path) -> None:
    write(tmp_path, made(1))
    put(write(tmp_path, made(2)), name, content)
    found, notes = newest(tmp_path)
    assert found is not None
    assert found.facts["step"] == 1
    assert name in notes[0]


def put(path: Path, name: str, content: bytes) -> None:
    """Another file, with a sum that fits it."""
    manifest = json.loads((path / MANIFEST).read_text())
    (path / name).write_bytes(content)
    (path / MANIFEST).write_text(json.dumps(manifest | {name: sha256(content).hexdigest()}))


def test_all_damaged_is_an_error_each_time(tmp_path: Path) -> None:
    for step in (1, 2):
        (write(tmp_path, made(step)) / TENSORS).unlink()
    for expected in ("step-00000002 is damaged .*; step-00000001 is damaged", "there are only damaged ones"):
        with pytest.raises(RunError, match=expected) as caught:
            newest(tmp_path)
        assert caught.value.exit_code == 4


def test_one_from_a_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    path = write(tmp_path, made(1))
    monkeypatch.undo()
    with pytest.raises(RunError, match="newer version of daybreak; try: upgrade"):
        newest(tmp_path)
    assert path.exists()  # it is not damaged


def test_no_flipped_bit_and_no_cut_is_loaded(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """20 of each here; `make soak` does 1,000."""
    trials = 1000 if SOAK else 20
    record_property("trials", 2 * trials)
    path, rng = write(tmp_path, made(1)), np.random.default_rng(0)
    whole = {file: file.read_bytes() for file in path.iterdir()}
    spoilers: list[Callable[[bytes], bytes]] = [flipped(rng), cut_short(rng)]
    for spoil in spoilers:
        refused = 0
        for _ in range(trials):
            file = path / str(rng.choice([TENSORS, FACTS, MANIFEST]))
            file.write_bytes(spoil(whole[file]))
            try:
                assert same(read(path), made(1))  # a manifest may be changed and say the same
            except checkpoint._DamagedError:
                refused += 1
            file.write_bytes(whole[file])
        assert refused >= 0.9 * trials
    assert same(read(path), made(1))


def flipped(rng: np.random.Generator) -> Callable[[bytes], bytes]:
    def spoil(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        return bytes(changed)

    return spoil


def cut_short(rng: np.random.Generator) -> Callable[[bytes], bytes]:
    return lambda content: content[: rng.integers(len(content))]


def same(found: Checkpoint, expected: Checkpoint) -> bool:
    alike = all(torch.equal(found.tensors[name], value) for name, value in expected.tensors.items())
    return alike and found.facts == expected.facts | {"format": 1}


# -- faults of the file system ----------------------------------------------------------------------------------------

CALLS = [(Path, "write_bytes"), (os, "fsync"), (Path, "replace"), (Path, "mkdir"), (Path, "rename")]


def faults_at(monkeypatch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Let the call of this number, of all that change the disk, fail; returns the list of calls as it grows."""
    made_calls: list[str] = []
    for owner, name in CALLS:
        original = getattr(owner, name)

        def call(*args: Any, _original: Callable[..., Any] = original, _name: str = name, **kwargs: Any) -> Any:
            made_calls.append(_name)
            if len(made_calls) == number:
                if _name == "write_bytes":
                    _original(args[0], args[1][: len(args[1]) // 2])  # half of it gets there
                raise OSError(28, "No space left on device")
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)
    return made_calls


def test_a_full_disk_says_how_many_bytes_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults_at(monkeypatch, 3)
    with pytest.raises(StorageError, match=r"step-00000001: cannot be written \(No space left on device, \d+ bytes"):
        write(tmp_path, made(1))


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:  # noqa: PT012
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert (path.read_text(), steps(tmp_path)) == ("new", ["a.txt"])


def test_files_are_flushed_before_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut cannot be tried; the order of calls that survives one can."""
    calls = faults_at(monkeypatch, -1)
    with whole_file(tmp_path / "a") as temporary:
        temporary.write_bytes(b"x")
    assert [c for c in calls if c != "mkdir"] == ["write_bytes", "fsync", "replace", "fsync"]


# -- one writer -------------------------------------------------------------------------------------------------------


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(BusyError, match=f"in use by process {os.getpid()} on ") as caught, locked(tmp_path):
            pass
        assert caught.value.exit_code == 7
    assert steps(tmp_path) == []
    with locked(tmp_path):
        pass


def test_a_lock_whose_file_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last holder lets go between our opening the file and locking it: the lock on the removed file is worth
    nothing, since a third process could lock a new one."""
    path, original = tmp_path / LOCK, os.open
    opened: list[int] = []

    def open_then_lose(name: Any, *args: Any) -> int:
        descriptor = original(name, *args)
        if not opened and Path(name) == path:
            path.unlink()
        opened.append(descriptor)
        return descriptor

    monkeypatch.setattr(os, "open", open_then_lose)
    with locked(tmp_path):
        assert path.exists()
        assert len(opened) == 2


# -- how often --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1m", Every(seconds=60)),
        ("90s", Every(seconds=90)),
        ("40steps", Every(steps=40)),
        ("1 step", Every(steps=1)),
        ("never", Every()),
    ],
)
def test_how_often(text: str, expected: Every) -> None:
    assert Every.parse(text) == expected


@pytest.mark.parametrize("text", ["0", "0steps", "often", "", "-1m"])
def test_how_often_not(text: str) -> None:
    with pytest.raises(UsageError):
        Every.parse(text)


@pytest.mark.parametrize("mark", [b"{", b"{}", b"[]", b'{"step": null}', b'{"step": "x"}'])
def test_a_mark_that_cannot_be_read_is_none(mark: bytes, tmp_path: Path) -> None:
    write(tmp_path, made(1))
    (tmp_path / BEST).write_bytes(mark)
    assert best(tmp_path) is None


@pytest.mark.parametrize("name", [TENSORS, FACTS, MANIFEST])
def test_a_folder_in_the_place_of_a_file_is_damage(name: str, tmp_path: Path) -> None:
    write(tmp_path, made(1))
    path = write(tmp_path, made(2))
    (path / name).unlink()
    (path / name).mkdir()
    found, notes = newest(tmp_path)
    assert found is not None
    assert found.facts["step"] == 1
    assert "is damaged (cannot be read, Is a directory)" in notes[0]


@pytest.mark.parametrize(
    ("text", "why"), [(b"{", "manifest.json cannot be read"), (b"[]", "is not what manifest.json says")]
)
def test_a_manifest_that_is_none(text: bytes, why: str, tmp_path: Path) -> None:
    path = write(tmp_path, made(1))
    (path / MANIFEST).write_bytes(text)
    with pytest.raises(checkpoint._DamagedError, match=why):
        read(path)


@pytest.mark.parametrize("error", [ValueError, KeyError, TypeError, RuntimeError])
def test_whatever_the_library_raises_is_damage(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: bytes) -> None:
        raise error("tensor")

    path = write(tmp_path, made(1))
    monkeypatch.setattr(checkpoint, "load", fail)
    with pytest.raises(checkpoint._DamagedError, match=rf"{TENSORS} cannot be read \({error.__name__}\)"):
        read(path)


def test_a_step_that_another_process_found(tmp_path: Path) -> None:
    path = write(tmp_path, made(3))
    assert read_step(tmp_path, 3).facts["step"] == 3
    (path / TENSORS).unlink()
    why = r"step-00000003: is damaged here \(state.safetensors is missing\); try: one folder for all"
    with pytest.raises(RunError, match=why):
        read_step(tmp_path, 3)
