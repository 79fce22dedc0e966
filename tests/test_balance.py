"""Classes of unequal size: how they are evened out, who decides it, and the figures that show whether it helped."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from image_sets import sample_files, write_folder
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight

import daybreak
from daybreak.core import metrics
from daybreak.core.config import Recipe, override
from daybreak.core.errors import UsageError
from daybreak.core.options import train_options
from daybreak.data import Dataset, open_dataset
from daybreak.recipes import RECIPES
from daybreak.report.run_charts import accuracy_and_loss
from daybreak.runs.transforms import Normalizer
from daybreak.training.balance import balance_for, balanced_order, class_weights
from daybreak.training.images import Resident
from daybreak.training.loader import Loader
from daybreak.training.session import prepare
from daybreak.training.step import batch_loss, loss_of

SMALL = RECIPES["small"]
TINY = {"model.width": 0.1, "epochs": 1, "min_steps": 0, "precision": "float32"}
labels_of_unequal_classes = st.lists(st.integers(1, 40), min_size=1, max_size=6).map(
    lambda sizes: np.repeat(np.arange(len(sizes)), sizes)
)


@pytest.fixture(scope="module")
def uneven(digits: Dataset) -> Dataset:
    """Digits with all their zeros to fours and three of every other."""
    labels = digits.train.labels_N
    kept = [np.flatnonzero(labels == k)[: None if k < 5 else 3] for k in range(10)]
    return replace(digits, train=digits.train.take(np.concatenate(kept)))


# -- the order of an epoch --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(labels_of_unequal_classes, st.integers(0, 3), st.integers(0, 3))
def test_classes_have_equal_places_and_images_of_a_class_equal_turns(labels: np.ndarray, seed: int, epoch: int) -> None:
    order = balanced_order(labels, seed, epoch)
    assert len(order) == len(labels)
    places = Counter(labels[order].tolist())
    assert max(places.values()) - min(places.values()) <= 1
    assert set(places) == set(labels.tolist()) or len(labels) < len(set(labels.tolist()))
    turns = Counter(order.tolist())
    for label in places:
        mine = [turns[i] for i in np.flatnonzero(labels == label).tolist()]
        assert max(mine) - min(mine) <= 1
    assert np.array_equal(order, balanced_order(labels, seed, epoch))


def test_a_large_class_shows_all_its_images_in_time() -> None:
    labels = np.repeat([0, 1], [90, 10])
    seen = {i for epoch in range(12) for i in balanced_order(labels, 0, epoch).tolist()}
    assert seen == set(range(100))
    assert len({i for i in balanced_order(labels, 0, 0).tolist() if i < 90}) == 50  # as many as it has places


def test_a_class_without_images_has_no_places() -> None:
    labels = np.array([0, 0, 0, 2])
    assert Counter(labels[balanced_order(labels, 0, 0)].tolist()) == {0: 2, 2: 2}


def loader(recipe: Recipe, sizes: list[int]) -> Loader:
    torch.manual_seed(0)
    images = torch.randint(256, (sum(sizes), 32, 32, 3), dtype=torch.uint8)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Loader(recipe, Resident(images), labels, Normalizer.of(images), seed=0, dtype=torch.float32)


def test_an_image_that_is_shown_again_is_augmented_anew() -> None:
    recipe = override(RECIPES["sprint"], {"balance": "sampling", "batch_size": 20, "steps": 5})
    train = loader(recipe, [99, 1])
    index = torch.cat([train.indices(step) for step in range(5)])
    rare = torch.cat([train.batch(step, 1.0)[0] for step in range(5)])[index == 99]
    assert len(rare) == 50
    assert len({image.numpy().tobytes() for image in rare}) > 40
    again = loader(recipe, [99, 1])
    assert torch.equal(again.batch(3, 1.0)[0], train.batch(3, 1.0)[0])  # a function of the step, as a resumed run needs
    assert not torch.equal(again.indices(3), loader(override(recipe, {"balance": "none"}), [99, 1]).indices(3))


# -- weights ----------------------------------------------------------------------------------------------------------


@given(labels_of_unequal_classes)
def test_weights_are_those_of_scikit_learn(labels: np.ndarray) -> None:
    classes = np.unique(labels)
    expected = compute_class_weight("balanced", classes=classes, y=labels)
    found = class_weights(labels, len(classes) + 1)
    np.testing.assert_allclose(found, [*expected, 0], rtol=1e-6)
    assert found[labels].mean() == pytest.approx(1)


def test_the_loss_weighs_the_images_of_a_class() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0.5, 1, 2])
    each = F.cross_entropy(logits, labels, reduction="none")
    expected = (weights[labels] * each).sum() / weights[labels].sum()
    recipe = override(SMALL, {"label_smoothing": 0})
    torch.testing.assert_close(batch_loss(recipe, logits, labels, weights), expected)
    assert not torch.isclose(batch_loss(recipe, logits, labels), expected)


@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
def test_a_session_has_weights_only_where_they_are_asked_for(uneven: Dataset, balance: str) -> None:
    session = prepare(override(SMALL, TINY | {"balance": balance}), uneven, 0, torch.device("cpu"))
    assert (session.weights_K is not None) == (balance == "weights")
    logits, labels = torch.zeros(2, 10), torch.tensor([0, 9])
    logits[1, 9] = 5  # only the frequent class is wrong
    plain = batch_loss(session.recipe, logits, labels)
    assert (loss_of(session)(logits, labels) < plain) == (balance == "weights")


# -- who decides ------------------------------------------------------------------------------------------------------


def decided(dataset: Dataset, recipe: Recipe = SMALL, **options: Any) -> tuple[str, str | None]:
    found, why = balance_for(recipe, dataset, train_options(data="digits", **options))
    return found.balance, why


def test_uneven_data_is_evened_out_and_the_user_is_told(uneven: Dataset, digits: Dataset) -> None:
    how, why = decided(uneven)
    assert (how, why) == ("weights", f"classes have 3 to {np.bincount(uneven.train.labels_N).max()} training images: "
                          "all classes weigh alike in the loss (--balance none: as they are)")  # fmt: skip
    assert decided(digits) == ("none", None)
    assert decided(uneven, override(SMALL, {"balance": "weights"})) == ("weights", None)  # the recipe's own way
    assert decided(uneven, loss="mine:loss")[0] == "sampling"
    for asked in ("none", "weights", "sampling"):
        assert decided(uneven, balance=asked) == (asked, None)
    with pytest.raises(UsageError, match=r"--balance weights: mine:loss weighs classes itself.*sampling"):
        decided(uneven, balance="weights", loss="mine:loss")


@pytest.mark.parametrize(("most", "how"), [(29, "none"), (30, "weights")])
def test_three_times_is_uneven(digits: Dataset, most: int, how: str) -> None:
    labels = digits.train.labels_N
    kept = [np.flatnonzero(labels == k)[: most if k == 3 else 10] for k in range(10)]
    assert decided(replace(digits, train=digits.train.take(np.concatenate(kept))))[0] == how


# -- the figures ------------------------------------------------------------------------------------------------------


@given(st.integers(2, 5), st.integers(0, 1000))
def test_figures_over_classes_are_those_of_scikit_learn(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(classes, size=30) // rng.integers(1, 3), rng.normal(size=(30, classes))
    confusion = metrics.confusion_matrix(logits, labels)
    predicted = logits.argmax(1)
    found = metrics.balanced_accuracy(confusion), metrics.macro_f1(confusion)
    present = np.unique(labels)
    recalls = [(predicted[labels == k] == k).mean() for k in present]
    assert found[0] == pytest.approx(np.mean(recalls))
    assert found[1] == pytest.approx(f1_score(labels, predicted, average="macro"))
    if set(predicted.tolist()) <= set(present.tolist()):  # else scikit-learn warns
        assert found[0] == pytest.approx(balanced_accuracy_score(labels, predicted))


def epoch_row(balanced: float | None) -> dict[str, Any]:
    row = {"epoch": 1, "train_acc": 0.9, "train_loss": 0.3, "val_acc": 0.8, "val_loss": 0.5}
    return row if balanced is None else row | {"val_balanced_acc": balanced}


@pytest.mark.parametrize(("balanced", "lines"), [(0.6, 3), (0.805, 2), (None, 2)])
def test_the_curves_show_the_accuracy_over_classes_where_it_is_another(balanced: float | None, lines: int) -> None:
    accuracy, loss = accuracy_and_loss([epoch_row(balanced)])
    assert (len(accuracy.lines), len(loss.lines)) == (lines, 2)
    if lines == 3:
        assert accuracy.lines[2].points == [(1, 60.0)]


def test_scarce_classes_are_named(tmp_path: Path) -> None:
    def notes(counts: dict[str, int]) -> tuple[str, ...]:
        files = {}
        for name, count in counts.items():
            files |= sample_files(count, (name,), ("train",)) | sample_files(1, (name,), ("test",))
        return open_dataset(write_folder(tmp_path / "-".join(counts), files)).notes

    found = notes({"ant": 25, "bee": 19, "cow": 2})
    assert "classes with fewer than 20 training images: cow 2, bee 19; more of these help most" in found
    assert not any("fewer than" in note for note in notes({"ant": 25, "bee": 20}))


# -- the whole way ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(uneven: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[daybreak.Run, list[dict[str, Any]]]:
    folder, events = tmp_path_factory.mktemp("uneven"), list[dict[str, Any]]()
    arrays = {
        f"{axis}_{part}": values
        for part, split in (("train", uneven.train), ("test", uneven.test))
        for axis, values in (("x", split.images_NHWC), ("y", split.labels_N))
    }
    np.savez(folder / "uneven.npz", **arrays)
    made = daybreak.train(folder / "uneven.npz", settings=TINY, out=folder / "run", on_event=events.append)
    return made, events


def test_a_run_says_how_it_evened_out_its_classes(run: tuple[daybreak.Run, list[dict[str, Any]]]) -> None:
    made, events = run
    (choice,) = [event for event in events if event["event"] == "choice"]
    assert "all classes weigh alike in the loss" in choice["why"]
    assert any("fewer than 20 training images" in note for note in made.directory.config["data"]["notes"])
    summary, found = made.directory.summary, made.evaluate()
    assert (summary["balance"], made.directory.recipe.balance) == ("weights", "weights")
    assert summary["balanced_acc"] == found.balanced_accuracy
    assert summary["macro_f1"] == found.macro_f1
    assert list(summary["recall"].values()) == [score.recall for score in found.per_class]
    row = made.directory.metrics("epoch")[-1]
    assert row["test_balanced_acc"] == pytest.approx(replace(found, tta="none").balanced_accuracy)
    assert json.loads(json.dumps(found.as_json()))["balanced_acc"] == found.balanced_accuracy


def test_a_longer_run_keeps_its_way(run: tuple[daybreak.Run, list[dict[str, Any]]]) -> None:
    made, _ = run
    with pytest.raises(UsageError, match="--balance with --resume"):
        daybreak.resume(made.path, balance="none")
    longer = daybreak.resume(made.path, epochs=2)
    assert longer.directory.summary["balance"] == "weights"
