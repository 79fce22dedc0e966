"""The verdict: each sentence from numbers whose answer is known, and none where the numbers allow no claim."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_sets import photographs
from scipy.stats import binomtest
from typer.main import get_command

from daybreak import cli
from daybreak.core import metrics
from daybreak.data.duplicates import Duplicate
from daybreak.evaluation.evaluation import Evaluation
from daybreak.explain.ranking import AT_THE_LAST, BEFORE_THE_LAST, can_mask, most_faithful
from daybreak.report import sections, verdict
from daybreak.report.cards import cards
from daybreak.report.html import short_name
from daybreak.report.matrix import by_confusion
from daybreak.report.next_step import next_step
from daybreak.report.verdict import Finding, Name
from daybreak.runs.directory import RunDirectory
from daybreak.runs.predictions import Predictions

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "records" / "2026-11-28_faithfulness" / "faithfulness.json"


# -- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_that_of_newcombe_1998(hits: int, trials: int, low: float, high: float) -> None:
    """Table I, method 3."""
    assert metrics.wilson_interval(hits, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
@pytest.mark.parametrize("hits", [0, 1, 17, 359, 360])
def test_wilsons_interval_is_scipys(hits: int, confidence: float) -> None:
    reference = binomtest(hits, 360).proportion_ci(confidence, method="wilson")
    assert metrics.wilson_interval(hits, 360, confidence) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_without_trials_nothing_is_known() -> None:
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)


def calibrated(n: int, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of 4 classes, and labels drawn from their softmax: at sharpness 1 a perfectly calibrated net."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 2, (n, 4))
    probability = metrics.softmax(logits)
    labels = (probability.cumsum(1) > draw.random((n, 1))).argmax(1)
    return logits * sharpness, labels


def test_the_calibration_error_of_chance_is_the_mean_one_of_calibrated_nets() -> None:
    found = [metrics.expected_calibration_error(*calibrated(400, seed)) for seed in range(60)]
    expected = [metrics.chance_calibration_error(*calibrated(400, seed)) for seed in range(60)]
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.06)


# -- accuracy --------------------------------------------------------------------------------------------------------


def test_accuracy_has_its_interval_and_the_majority_baseline() -> None:
    found = verdict.accuracy(81, np.array([100, 93, 70]), 0.25)
    text = found.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "30.8 % of 263 test images" in text
    assert "25.5 % to 36.6 %" in text
    assert "largest class would give 38.0 %" in text
    assert "Macro-F1, the mean over classes, is 25.0 %" in text
    assert found.level == "warning"  # below the baseline
    assert verdict.accuracy(200, np.array([100, 93, 70]), 0.7).level == "note"


def test_a_lead_within_chance_is_no_lead() -> None:
    assert "not shown" in verdict.accuracy(11, np.array([10, 10]), 0.5).text
    assert "not shown" not in verdict.accuracy(550, np.array([500, 500]), 0.5).text


# -- curves ----------------------------------------------------------------------------------------------------------


def rows(train: list[float], held: list[float], losses: list[float], part: str = "val") -> list[dict[str, Any]]:
    return [
        {"epoch": n, "train_acc": t, f"{part}_acc": h, f"{part}_loss": loss}
        for n, (t, h, loss) in enumerate(zip(train, held, losses, strict=True), 1)
    ]


FLAT, FALLING, RISING = [1.0, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [2.0, 1.8, 1.6, 1.5, 1.4, 1.3, 1.1, 0.9], [
    1.0, 0.6, 0.5, 0.52, 0.55, 0.6, 0.65, 0.7,
]  # fmt: skip


def fitted(train: float, held: float, losses: list[float], images: int = 1000) -> Finding | None:
    n = len(losses)
    return verdict.fit(rows([train] * n, [held] * n, losses), "val", "validation", images)


@pytest.mark.parametrize(
    ("train", "held", "losses", "fault"),
    [
        (0.999, 0.70, RISING, "overfitted"),
        (0.999, 0.70, FLAT, "overfitted"),
        (0.60, 0.58, FALLING, "undertrained"),
        (0.60, 0.58, FLAT, "underfitted"),
        (0.40, 0.38, [2.0, 1.9], "undertrained"),  # too few epochs for a trend
        (0.99, 0.95, FALLING, None),  # the fall is the end of the cycle: nothing is left to learn
        (0.999, 0.93, FLAT, None),
    ],
)
def test_the_curves_say_what_is_wrong(train: float, held: float, losses: list[float], fault: str | None) -> None:
    found = fitted(train, held, losses)
    assert found is not None
    assert found.fault == fault
    assert found.level == ("good" if fault is None else "warning")
    assert found.evidence == "curves"
    assert found.text.startswith(fault.title()) if fault else "Neither" in found.text, found.text


def test_a_rise_of_the_loss_is_told_with_its_epoch() -> None:
    rising, flat = fitted(0.999, 0.7, RISING), fitted(0.999, 0.7, FLAT)
    assert rising
    assert "risen by 40\N{NO-BREAK SPACE}% since epoch 3" in rising.text
    assert flat
    assert "risen" not in flat.text


def test_a_gap_within_chance_is_no_overfitting() -> None:
    few, many = fitted(0.999, 0.88, FLAT, images=30), fitted(0.999, 0.88, FLAT, images=30_000)
    assert few
    assert few.fault is None
    assert many
    assert many.fault == "overfitted"


def test_without_curves_nothing_is_said_of_them() -> None:
    assert verdict.fit([], "val", "validation", 1000) is None
    assert verdict.fit(rows([0.5], [0.5], [1.0]), "val", "validation", 0) is None


# -- classes ---------------------------------------------------------------------------------------------------------


def test_the_weakest_classes_are_those_below_the_rest_beyond_chance() -> None:
    confusion = np.diag([95, 96, 60, 94, 75]) + np.diag([5, 4, 40, 6], 1) + np.diag([0, 0, 0, 25], -1)
    found = verdict.weakest(confusion, "abcde")
    assert found is not None
    assert [word for word in found.words if isinstance(word, Name)] == ["c"]
    assert "60.0\N{NO-BREAK SPACE}%" in found.text
    tenth = verdict.weakest(confusion // 10, "abcde")  # the same shares of a tenth of the images
    assert tenth is not None
    assert (tenth.level, "only 9 test images" in tenth.text) == ("note", True)
    even = verdict.weakest(np.diag([95, 95]), "ab")
    assert even is not None
    assert even.level == "good"
    assert verdict.weakest(np.array([[10]]), "a") is None


def test_the_pair_to_look_at_counts_both_directions() -> None:
    confusion = np.array([[90, 0, 7], [4, 88, 6], [1, 9, 85]])
    found = verdict.pair(confusion, ("ant", "bee", "cow"))
    assert found is not None
    assert found.text == "Look first at cow and bee: 15 of 27 mistakes are between them."
    assert found.cell == (2, 1, 9)
    assert verdict.pair(np.diag([9, 9]), ("ant", "bee")) is None
    assert verdict.pair(np.array([[9, 2], [0, 9]]), ("ant", "bee")) is None  # two mistakes may be a coincidence


# -- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sharpness", "n", "starts", "level"),
    [
        (1.0, 5000, "Well calibrated", "good"),
        (3.0, 5000, "Overconfident", "warning"),
        (0.4, 5000, "Underconfident", "warning"),
        (1.0, 60, "Calibrated: its calibration error", "good"),  # no more than chance
    ],
)
def test_calibration(sharpness: float, n: int, starts: str, level: str) -> None:
    logits, labels = calibrated(n, sharpness=sharpness)
    found = verdict.calibration(logits, labels, metrics.fit_temperature(logits, labels))
    assert found.text.startswith(starts), found.text
    assert found.level == level
    if sharpness != 1:
        assert f"by {metrics.fit_temperature(logits, labels):.2f} where" in found.text


# -- data ------------------------------------------------------------------------------------------------------------


def test_classes_of_unequal_size() -> None:
    found = verdict.balance(np.array([500, 100, 10]), ("cat", "dog", "owl"), 0.61)
    assert found is not None
    assert found.text.startswith("Unequal classes: cat has 500 training images, owl 10.")
    assert "61.0" in found.text
    assert verdict.balance(np.array([29, 10]), ("cat", "dog"), 0.6) is None
    assert verdict.balance(np.array([30, 10]), ("cat", "dog"), 0.6) is not None


def test_copies_in_both_parts() -> None:
    found = verdict.leaks(12, 2, 2000, 32, (0.885, 0.879))
    assert found.text.replace("\N{NO-BREAK SPACE}", " ") == (
        "12 of 2,000 test images have an exact or near copy in the training part, 2 with another label; on the others "
        "the accuracy is 87.9 %."
    )
    assert found.level == "warning"
    assert verdict.leaks(12, 2, 2000, 32, (0.880, 0.879)).level == "note"  # they hardly flatter
    assert verdict.leaks(0, 0, 2000, 32, (0.9, 0.9)).level == "good"
    assert "exact copy" in verdict.leaks(0, 0, 2000, 28, (0.9, 0.9)).text  # near ones do not count for images so small
    assert "accuracy" not in verdict.leaks(3, 0, 3, 32, (1.0, None)).text


def test_labels_are_doubted_only_by_a_net_that_is_mostly_right() -> None:
    hidden = verdict.mistrust(0.68)
    assert hidden is not None
    assert "68.0" in hidden
    assert verdict.mistrust(0.9) is None
    assert hidden in verdict.labels(0, 372, hidden).text
    assert verdict.labels(118, 372, None).text == "118 of 372 test labels look wrong; see for yourself."
    assert verdict.labels(0, 372, None).level == "good"


# -- a real run ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(digits_run: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory.open(shutil.copytree(digits_run.path, tmp_path / "run"))


def fault(name: Any) -> Finding:
    return Finding(("",), "warning", "curves", fault=name)


def test_the_next_step_is_a_command_that_runs(run: RunDirectory) -> None:
    none: dict[str, Any] = {"leaks": False, "suspects": 0}
    steps = {
        "leaks": next_step(run, None, **none | {"leaks": True}),
        "undertrained": next_step(run, fault("undertrained"), **none),
        "overfitted": next_step(run, fault("overfitted"), **none),
        "underfitted": next_step(run, fault("underfitted"), **none),
        "suspects": next_step(run, None, **none | {"suspects": 3}),
        "nothing": next_step(run, None, **none),
    }
    for step in steps.values():
        _, name, *arguments = shlex.split(step.command)
        with get_command(cli.app).commands[name].make_context(name, arguments):
            pass
    path = str(run.path)
    assert steps["leaks"].command == "daybreak data digits"
    assert steps["undertrained"].command.startswith("daybreak train digits --recipe small --epochs 8")
    assert "--set augment.cutout=8" in steps["overfitted"].command
    assert "--set model.width=0.4" in steps["underfitted"].command
    assert steps["suspects"].command == f"daybreak suspects {path} --folds 4"
    assert steps["nothing"].command == f"daybreak explain {path} --class predicted --against true"


@pytest.mark.parametrize(("side", "is_photos"), [(120, True), (95, False)])
def test_photos_that_were_shrunk_to_be_trained_from_nothing_are_still_photos(
    run: RunDirectory, tmp_path: Path, side: int, is_photos: bool
) -> None:
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    config["options"] |= {"data": str(photographs(tmp_path / "photos", side=side))}
    path.write_text(json.dumps(config))
    step = next_step(RunDirectory.open(run.path), fault("overfitted"), leaks=False, suspects=0)
    assert ("--recipe finetune" in step.command) == is_photos
    shutil.rmtree(tmp_path / "photos")
    step = next_step(RunDirectory.open(run.path), fault("overfitted"), leaks=False, suspects=0)
    assert "--recipe finetune" not in step.command


def test_a_run_of_0_1_0_is_repeated_by_its_own_command() -> None:
    run = RunDirectory.open(ROOT / "tests" / "runs_of_0.1.0" / "finished")
    step = next_step(run, fault("undertrained"), leaks=False, suspects=0)
    assert step.command == (
        "daybreak train digits --device cpu --seed 3 --checkpoint-every never --set model.width=0.1 "
        "--set model.dropout=0.1 --set ema=0.9 --epochs 4"
    )


def test_a_budget_is_doubled_as_a_budget(run: RunDirectory) -> None:
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    config["options"] |= {"budget": 90.0, "data": "digits"}
    path.write_text(json.dumps(config))
    step = next_step(RunDirectory.open(run.path), fault("undertrained"), leaks=False, suspects=0)
    assert "--budget 180.0" in step.command
    assert "--epochs" not in step.command


def test_suspects_of_the_training_part_need_accurate_nets_too(run: RunDirectory, digits: Any) -> None:
    from daybreak.evaluation.evaluate import evaluate

    evaluation = evaluate(run, tta="none")
    row = {"index": 0, "file": "a", "given": "1", "suggested": "2", "quality": 0.1}
    for known, shown in ((0.95, 1), (0.6, 0), (None, 0)):
        run.write_suspects({"test": [], "train": [row], "folds": 4} | ({"train_balanced_acc": known} if known else {}))
        part = sections.suspects(run, digits, evaluation)["parts"][1]
        assert (part["name"], len(part["rows"])) == ("training", shown)
        assert (part["hidden"] is None) == bool(shown)
    assert "run daybreak suspects again" in part["hidden"]


def test_small_images_are_copies_only_if_they_are_equal(
    run: RunDirectory, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from daybreak.evaluation.evaluate import evaluate

    evaluation = evaluate(run, tta="none")
    test = digits.test.images_NHWC.copy()
    test[5] = digits.train.images_NHWC[7][:, ::-1]
    test[6] = digits.train.images_NHWC[8] // 2
    data = replace(digits, test=replace(digits.test, images_NHWC=test))
    found = [Duplicate(5, 7, 1.0, True, False), Duplicate(6, 8, 0.99, False, True)]
    monkeypatch.setattr(sections, "near_duplicates", lambda *_: found)
    for size, expected in ((28, 1), (32, 2)):
        kept = sections.duplicates(replace(data, decode=replace(data.decode, size=size)), evaluation)
        assert (kept["total"], kept["is_exact"], kept["other_label"]) == (expected, size < 32, 1)
    right = metrics.correct(evaluation.logits_NK, evaluation.labels_N)
    assert kept["without"] == pytest.approx(np.delete(right, [5, 6]).mean())


# -- what the page is made of ----------------------------------------------------------------------------------------


def test_the_order_of_methods_is_that_of_the_record() -> None:
    found = json.loads(RECORD.read_text())["faithfulness"]
    road = {(row["layer"], row["method"]): row["road"]["mean"] for row in found if row["method"] != "random"}

    def ranked(layers: list[str], methods: tuple[str, ...]) -> list[str]:
        return sorted(methods, key=lambda method: -sum(road[layer, method] for layer in layers))

    assert list(BEFORE_THE_LAST) == ranked(["layer1", "layer2"], BEFORE_THE_LAST)
    assert list(AT_THE_LAST) == ranked(["layer3"], AT_THE_LAST)
    assert most_faithful(("prep", "layer1", "layer3")) == dict.fromkeys(("prep", "layer1"), "layer-cam") | {
        "layer3": "grad-cam"
    }
    assert most_faithful(("layer3",), masks=True) == {"layer3": "score-cam"}
    assert can_mask(16, 512, 32)
    assert not can_mask(16, 1280, 224)


def test_classes_that_are_taken_for_each_other_stand_together() -> None:
    groups = np.random.default_rng(3).permutation(np.repeat(np.arange(10), 4))  # of 40 classes
    confusion = 20 * np.eye(40, dtype=int) + 3 * (groups[:, None] == groups) + 0
    order = by_confusion(confusion)
    assert sorted(order) == list(range(40))
    assert (np.diff(groups[order]) != 0).sum() == 9  # each group in one piece


@pytest.mark.parametrize(
    ("name", "longest", "short"),
    [
        ("cat", 24, "cat"),
        ("x" * 24, 24, "x" * 24),
        ("2026-11-26 holiday in the mountains (17).jpg", 24, "2026-11-26 hol… (17).jpg"),
        ("a\nb", 24, "a\\nb"),
    ],
)
def test_long_names_lose_their_middle(name: str, longest: int, short: str) -> None:
    assert short_name(name, longest) == short
    assert len(short) <= longest


def test_recipes_with_cutout_get_another_step(run: RunDirectory) -> None:
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    config["recipe"]["augment"]["cutout"] = 4
    path.write_text(json.dumps(config))
    step = next_step(RunDirectory.open(run.path), fault("overfitted"), leaks=False, suspects=0)
    assert step.command.startswith("daybreak explain")


@pytest.mark.parametrize(("tta", "mirrors", "views"), [("full", True, 6), ("full", False, 3), ("flip", True, 2)])
def test_a_card_says_over_how_many_views_it_averages(tta: str, mirrors: bool, views: int) -> None:
    logits, labels = calibrated(50)
    predictions = Predictions(logits, logits, labels, np.array([f"{n}.png" for n in range(50)]))
    evaluation = Evaluation(predictions, ("a", "b", "c", "d"), "none", "data", (), mirrors)
    summary = {"test_acc_tta": 0.5, "tta": tta, "target_met": None, "train_seconds": 1.0, "params": 1}
    labels_of = [card.label for card in cards(evaluation, summary | {"images_per_second": 1.0, "epochs": 1.0})]
    assert f"averaged over {views} views" in labels_of
