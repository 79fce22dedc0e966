"""The peers are what they say they are, and the series that compares them adds up and goes on where it stopped.

No test here times anything or needs a package that daybreak does not need.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from daybreak.core.config import override
from daybreak.core.nets import net_config
from daybreak.models.layers import Residual
from daybreak.models.page import PageNet
from daybreak.models.sprint import SprintNet, whitening_filters
from daybreak.recipes import RECIPES
from daybreak.runs.classifier import tta_views
from daybreak.training.optim import build_optimizer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = 16


def script(name: str) -> Any:
    """A script's module, found where the script would find its neighbours if it were started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS / "peers"))
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


common, airbench94_muon, resnet18, seed_page = map(script, ("common", "airbench94_muon", "resnet18", "seed_page"))
series, peers, peer_environments, peer_rates, peer_results = map(
    script, ("series", "peers", "peer_environments", "peer_rates", "peer_results")
)


@pytest.fixture(scope="module")
def pixels() -> common.Pixels:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (TINY + 10, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(TINY + 10) % 10
    return common.Pixels(images[:TINY], labels[:TINY], images[TINY:], labels[TINY:])


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """By position: names differ, order and shapes must not."""
    pairs = zip(target.state_dict().values(), source.state_dict().values(), strict=True)
    with torch.no_grad():
        for mine, theirs in pairs:
            assert mine.shape == theirs.shape
            mine.copy_(theirs)


def random_images(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def places(crops: Tensor, originals: Tensor, pad: int, mode: str) -> list[int]:
    """Where each crop lies in its padded original (0 …) or in that one's mirror image; it must lie in one place."""
    found, size = [], originals.shape[2]
    for crop, original in zip(crops, originals, strict=True):
        padded = F.pad(torch.stack([original, original.flip(2)]), (pad,) * 4, mode)
        windows = padded.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        (place,) = (windows == crop).flatten(1).all(1).nonzero().flatten().tolist()
        found.append(place)
    return found


def params(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# -- airbench94_muon --------------------------------------------------------------------------------------------------


def airbench_and_sprint(seed: int = 0) -> tuple[Any, SprintNet]:
    torch.manual_seed(seed)
    theirs, ours = airbench94_muon.Net(), SprintNet(net_config(name="sprint", activation="gelu"), 10, 3)
    for module in ours.modules():
        if isinstance(module, Residual):
            module.__class__ = nn.Sequential  # airbench's groups have no residual
    copy_weights(theirs, ours)
    return theirs, ours


def as_airbench() -> Any:
    """daybreak's recipe with airbench94_muon's rates."""
    settings = {"schedule.max_lr": 0.24, "schedule.initial_lr": 0.24, "model.activation": "gelu"}
    recipe = override(RECIPES["sprint"], settings)
    config = recipe.optimizer
    assert (config.momentum, config.bias_lr, config.head_lr, config.sgd_momentum) == (0.6, 0.053, 0.67, 0.85)
    assert (config.weight_decay, config.whiten_bias_until, config.newton_schulz_steps) == (2e-6, 0.375, 3)
    return recipe


def test_airbench_is_the_function_of_the_sprint_net_with_gelu() -> None:
    theirs, ours = airbench_and_sprint()
    assert params(theirs) == params(ours) == 1_972_792
    for training in (True, False):  # the second uses the running statistics that the first has moved
        logits = [net.train(training)(random_images(8)) for net in (theirs, ours)]
        torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-4)
    copied = zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in copied)


def test_airbench_starts_as_the_sprint_net_does() -> None:
    theirs = airbench94_muon.Net()
    trained = [p.numel() for p in theirs.parameters() if p.requires_grad]
    ours = SprintNet(net_config(name="sprint", activation="gelu"), 10, 3)
    assert trained == [p.numel() for p in ours.parameters() if p.requires_grad]
    assert theirs.head.weight.std().item() == pytest.approx(1)
    assert ours.head.linear.weight.std().item() == pytest.approx(1, abs=0.02)
    conv = theirs.groups[1][0].weight  # 24 in, 64 out: the first 24 filters copy their input
    images = torch.randn(1, 24, 5, 5)
    torch.testing.assert_close(F.conv2d(images, conv, padding=1)[:, :24], images)


def test_whitening_agrees_up_to_order_and_sign_and_whitens() -> None:
    mix = torch.tensor([[1.0, 0.4, 0.2], [0.0, 0.8, 0.3], [0.0, 0.0, 0.5]])
    images = torch.einsum("cd,ndhw->nchw", mix, random_images(50))
    theirs, ours = airbench94_muon.whitening(images), whitening_filters(images, 2)
    assert theirs.shape == ours.shape == (24, 3, 2, 2)
    assert torch.equal(theirs[12:], -theirs[:12])
    reversed_ours = ours[:12].flip(0)
    signs = (theirs[:12] * reversed_ours).sum((1, 2, 3)).sign().view(-1, 1, 1, 1)
    torch.testing.assert_close(theirs[:12], signs * reversed_ours, atol=1e-4, rtol=1e-3)
    responses = F.conv2d(images, theirs[:12]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(responses @ responses.T / responses.shape[1], torch.eye(12), atol=0.02, rtol=0)


@pytest.mark.slow
def test_airbench_steps_as_daybreak_does_with_its_rates() -> None:
    with pytest.MonkeyPatch.context() as patch:  # orthogonal updates are not computed in the same order
        patch.setattr(airbench94_muon, "compute_dtype", lambda _: torch.float64)
        compare_steps()


def compare_steps() -> None:
    """Loss, gradients, both optimizers, schedule and the freezing of the whitening bias, over all steps of a run."""
    theirs, ours = (net.double() for net in airbench_and_sprint())
    batch, steps = 8, 8
    labels, start = torch.arange(batch), [p.detach().clone() for p in theirs.parameters()]
    optimizers = airbench94_muon.Optimizers(theirs, batch, steps)
    optimizer = build_optimizer(ours, as_airbench(), batch, torch.float64)
    for step in range(steps):
        images = random_images(batch, step)[:, :, :25, :25].double()  # the smallest that the net takes
        F.cross_entropy(theirs(images), labels, label_smoothing=0.2, reduction="sum").backward()
        optimizers.step(step)
        optimizer.set_progress(step / steps)
        optimizer.zero_grad()
        F.cross_entropy(ours(images), labels, label_smoothing=0.2).backward()
        optimizer.step()
        for mine, other in zip(theirs.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-7, rtol=1e-9)
    moved = [not torch.equal(before, p) for before, p in zip(start, theirs.parameters(), strict=True)]
    assert moved == [p.requires_grad for p in airbench94_muon.Net().parameters()]
    assert not theirs.whiten.bias.requires_grad  # after three eighths


def test_the_comparison_of_steps_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airbench94_muon, "HEAD_LR", 0.6)
    with pytest.raises(AssertionError, match="not close"):
        test_airbench_steps_as_daybreak_does_with_its_rates()


def test_two_epochs_show_every_image_once_from_either_side() -> None:
    images = torch.arange(32.0).expand(6, 3, 32, 32).to(torch.uint8).contiguous()
    batches = airbench94_muon.batches(images, torch.arange(6), batch=3)
    sides: dict[int, list[bool]] = {n: [] for n in range(6)}
    for _ in range(4):  # two epochs of two batches
        for image, label in zip(*next(batches), strict=True):
            sides[int(label)].append(bool(image[0, 0, 10] < image[0, 0, 20]))
    assert all(sorted(seen) == [False, True] for seen in sides.values())
    assert len({seen[0] for seen in sides.values()}) == 2  # a random half begins mirrored


def test_crops_are_windows_of_the_padded_image() -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8)
    cropped, labels = next(airbench94_muon.batches(images, torch.arange(30), batch=30))
    assert len(set(places(cropped, images[labels], 2, "reflect"))) > 15


def test_airbench_evaluates_by_daybreaks_six_views() -> None:
    found, expected = (f(random_images(3)) for f in (airbench94_muon.views, lambda x: tta_views(x, "full")))
    assert [w for w, _ in found] == [w for w, _ in expected]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, expected, strict=True))


def test_normalize_gives_zero_mean_and_unit_deviation() -> None:
    images = torch.randint(20, 90, (50, 3, 8, 8), dtype=torch.uint8)
    nhwc = images.permute(0, 2, 3, 1)
    for normalized in (airbench94_muon.Normalize(images)(images), resnet18.Normalize(nhwc)(nhwc)):
        torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(normalized.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)


# -- the other nets ---------------------------------------------------------------------------------------------------


def test_seed_page_is_the_function_of_the_page_net() -> None:
    torch.manual_seed(0)
    theirs, ours = seed_page.Net(), PageNet(net_config(name="page"), 10, 3)
    copy_weights(theirs, ours)
    assert params(theirs) == 6_573_120
    for training in (True, False):
        logits = [net.train(training)(random_images(4)) for net in (theirs, ours)]
        torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_seed_page_augments_by_crop_and_flip(pixels: common.Pixels) -> None:
    mean, std = np.zeros(3), np.ones(3)
    plain = seed_page.Images(pixels.x_train, pixels.y_train, mean, std, augment=False)[7]
    torch.testing.assert_close(plain[0], torch.from_numpy(pixels.x_train[7]).permute(2, 0, 1) / 255)
    assert plain[1] == 7
    augmented = seed_page.Images(pixels.x_train, pixels.y_train, mean, std, augment=True)
    crops = torch.stack([augmented[7][0] for _ in range(12)])
    assert len(set(places(crops, plain[0].expand(12, 3, 32, 32), 4, "constant"))) > 6


def test_resnet18_is_the_usual_one() -> None:
    net = resnet18.make_net()
    assert params(net) == 11_173_962
    stem, body = nn.Sequential(*list(net)[:3]), nn.Sequential(*list(net)[:-3])
    assert stem(random_images(1)).shape == (1, 64, 32, 32)  # no stride, no pool
    assert body(random_images(1)).shape == (1, 512, 4, 4)


def test_resnet18s_batches_are_windows_of_the_padded_image(pixels: common.Pixels) -> None:
    torch.manual_seed(0)
    images = resnet18.Augmented(pixels)
    batch, labels = images[[3, 1, 2] * 10]
    assert labels.tolist() == [3, 1, 2] * 10
    black = images.normalize(torch.zeros(1, 1, 1, 3, dtype=torch.uint8))
    originals = images.normalize(torch.from_numpy(pixels.x_train)[labels])
    assert len(set(places(batch - black, originals - black, 4, "constant"))) > 15


# -- budget and plan --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "rehearsed", "steps"),
    [
        (100, [2, 4, 6, 8], 50),
        (100, [7, 9, 11, 13], 47),  # five seconds to set up
        (99.9, [2, 4, 6, 8], 49),  # what does not fit is not begun
        (100, [2, 4, 6, 46], 50),  # one step that was held up changes nothing
        (1, [2, 4, 6, 8], 1),  # one at least
        (3, [9, 11, 13, 15], 1),
    ],
)
def test_steps_for_a_budget(budget: float, rehearsed: list[float], steps: int) -> None:
    assert common.steps_for(budget, rehearsed) == steps


def arguments(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **({"budget": None, "epochs": None, "steps": None, "of": None, "rate": 1.0, "seed": 0} | given)
    )


def test_plans() -> None:
    def never(*_: Any) -> None:
        raise AssertionError("no rehearsal where the length is given")

    assert common.make_plan(arguments(epochs=8), 25, never) == common.Plan(200, 200, 25)
    assert common.make_plan(arguments(epochs=1, of=24), 97, never) == common.Plan(97, 24 * 97, 97)
    assert common.make_plan(arguments(steps=30, rate=0.3), 97, never) == common.Plan(30, 30, 97, rate=0.3)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_rate_multiplies_every_peak(factor: float) -> None:
    plan = common.Plan(10, 10, 10, rate=factor)
    optimizer = resnet18.sgd(nn.Linear(1, 1))
    schedule, rates = resnet18.one_cycle(optimizer, plan), []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(factor * 0.1)
    torch.manual_seed(0)
    plain, other = (airbench94_muon.Optimizers(airbench94_muon.Net(), 8, 10, rate) for rate in (1.0, factor))
    assert [other.whiten_peak, *other.peaks] == pytest.approx([factor * r for r in (0.053, *plain.peaks)])


def test_a_budget_is_rehearsed_at_the_start_of_a_long_schedule() -> None:
    seen = []

    def rehearse(plan: common.Plan, clock: common.Clock) -> None:
        seen.append(plan)
        clock.steps += [5.0 + step for step in range(plan.steps)]

    assert common.make_plan(arguments(budget=60.0), 25, rehearse) == common.Plan(56, 56, 25)
    assert seen[0].steps == common.REHEARSAL
    assert seen[0].schedule >= 100 * seen[0].steps
    assert len(seen) == 1  # a twentieth of this budget is no longer


def test_a_long_budget_is_rehearsed_for_a_twentieth_of_it() -> None:
    """What the first steps take says little about the rest: here later ones take twice as long."""
    seen = []

    def rehearse(plan: common.Plan, clock: common.Clock) -> None:
        seen.append(plan.steps)
        clock.steps += (
            [1.0 * step for step in range(1, plan.steps + 1)]
            if len(seen) == 1
            else [2.0 * step for step in range(1, plan.steps + 1)]
        )

    assert common.make_plan(arguments(budget=600.0), 25, rehearse) == common.Plan(300, 300, 25)
    assert seen == [common.REHEARSAL, 30]


def test_all_peers_keep_freed_memory(tmp_path: Path) -> None:
    """The names of mallopt's settings in the environment, as every process of the series gets them."""
    script = tmp_path / "peer.py"
    script.write_text("import os; print([os.environ[k] for k in ('MALLOC_MMAP_MAX_', 'MALLOC_TRIM_THRESHOLD_')])")
    code, output, _ = peers.run([sys.executable, str(script)], limit=60)
    assert (code, output.strip()) == (0, f"['0', '{2**63 - 1}']")


def test_the_clock_stands_still_while_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 13.0, 20.0, 21.0, 22.0])
    monkeypatch.setattr(common.time, "perf_counter", lambda: next(now))
    clock = common.Clock()
    clock.start()
    clock.stop()
    assert clock.seconds == 3
    clock.start()
    clock.step()
    clock.stop()
    assert (clock.steps, clock.seconds) == ([4.0], 5.0)


@pytest.mark.parametrize("peer", [airbench94_muon, resnet18], ids=lambda module: module.__name__)
def test_a_peer_prints_one_result(
    peer: Any,
    pixels: common.Pixels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "pixels.npz"
    np.savez(file, **{name: getattr(pixels, name)[:10] for name in pixels.__dataclass_fields__})
    monkeypatch.setattr(sys, "argv", ["peer", "--pixels", str(file), "--epochs", "1", "--of", "3", "--seed", "5"])
    common.main(peer.__name__, peer.BATCH, peer.train, peer.evaluate)
    result = json.loads(capsys.readouterr().out)
    assert {key: result[key] for key in ("peer", "seed", "budget", "epochs", "steps", "schedule_steps")} == {
        "peer": peer.__name__, "seed": 5, "budget": None, "epochs": 1, "steps": 1, "schedule_steps": 3
    }  # fmt: skip
    assert result["train_seconds"] > 0
    assert 0 <= result["test_acc"] <= 1
    assert (result["test_acc_tta"] is None) == (peer is resnet18)
    assert result["versions"]["torch"] == torch.__version__


# -- the series -------------------------------------------------------------------------------------------------------


def row(peer: str, minutes: float, seed: int, acc: float, tta: float | None = None, seconds: float = 60) -> Any:
    return {
        "peer": peer, "minutes": minutes, "seed": seed, "epochs": 2, "steps": 9, "train_seconds": seconds,
        "test_acc": acc, "test_acc_tta": tta, "flagged": False,
    }  # fmt: skip


def test_jobs_are_interleaved_by_seed() -> None:
    found = [(job.seed, job.minutes, job.peer) for job in peers.jobs(["a", "b"], [5, 10], 2)]
    assert found[:4] == [(0, 5, "a"), (0, 5, "b"), (0, 10, "a"), (0, 10, "b")]
    assert [seed for seed, *_ in found] == [0] * 4 + [1] * 4


def run_series(monkeypatch: pytest.MonkeyPatch, record: Path, source: Path, broken: bool) -> list[str]:
    """Run a series with a fake run; returns which jobs were started."""
    started = []

    def fake(line: list[str], limit: float) -> tuple[int, str, str]:
        assert limit > 60
        peer, seed = Path(line[1]).stem, int(line[line.index("--seed") + 1])
        started.append(f"{peer}-{seed}")
        if broken and len(started) == 3:
            raise KeyboardInterrupt
        if (peer, seed) == ("seed_page", 0):
            return 1, "", "Error: /some/folder/file.npz is odd"
        return 0, "noise\n" + json.dumps(row(peer, 0, seed, 0.5 + seed / 10, seconds=64 if seed else 60)), ""

    monkeypatch.setattr(peers, "run", fake)
    options = ["--minutes", "1", "--peers", "resnet18,seed_page", "--seeds", "2", "--record", str(record)]
    monkeypatch.setattr(sys, "argv", ["peers.py", str(source), *options])
    peers.main()
    return started


def test_a_job_takes_the_best_rate_of_its_grid_and_the_pace_of_its_peer(tmp_path: Path) -> None:
    for rate, acc in ((1.0, 0.3), (0.3, 0.5), (0.1, 0.4)):
        series.append(tmp_path, row("resnet18", 1, 0, acc) | {"rate": rate}, peers.RATES)
    series.append(tmp_path, {"peer": "resnet18", "minutes": 1, "seed": 0, "rate": 9.0, "failed": "nan"}, peers.RATES)
    series.append(tmp_path, row("resnet18", 8, 0, 0.2) | {"rate": 0.5}, peers.RATES)  # of longer trials than the runs
    series.append(tmp_path, row("resnet18", 5, 0, 0.5, seconds=450))  # nine steps
    series.append(tmp_path, {"peer": "resnet18", "minutes": 5, "seed": 1, "failed": "nan"})
    assert peers.tuned(peers.Job("resnet18", 5, 1), tmp_path) == peers.Job("resnet18", 5, 1, rate=0.3, steps=6)
    assert peers.tuned(peers.Job("lightning_resnet18", 5, 1), tmp_path) == peers.Job("lightning_resnet18", 5, 1, 0.3)
    assert peers.tuned(peers.Job("seed_page", 5, 1), tmp_path) == peers.Job("seed_page", 5, 1)
    series.append(tmp_path, row("daybreak", 5, 0, 0.5, seconds=300))
    assert peers.tuned(peers.Job("daybreak", 5, 1), tmp_path).steps is None  # it keeps its budget itself


def test_a_long_run_has_the_rate_of_the_longest_trials_that_are_no_longer_than_it(tmp_path: Path) -> None:
    assert peers.best_rate("resnet18", tmp_path, 5) == 1.0
    for minutes, rate, acc in ((1, 3.0, 0.8), (1, 1.0, 0.7), (5, 1.0, 0.6), (5, 0.3, 0.5)):
        series.append(tmp_path, row("resnet18", minutes, 0, acc) | {"rate": rate}, peers.RATES)
    lengths = (0.5, 1, 4, 5, 20)
    assert [peers.best_rate("resnet18", tmp_path, minutes) for minutes in lengths] == [3.0, 3.0, 3.0, 1.0, 1.0]
    assert peer_rates.trials(tmp_path, "resnet18", 5) == {1.0: 0.6, 0.3: 0.5}


def test_a_grid_goes_on_from_the_end_where_the_best_lies() -> None:
    grid, tried = (0.1, 0.3, 1.0), {}
    for _ in grid:
        rate = peer_rates.next_rate(grid, tried)
        tried[rate] = rate  # the higher the better
    assert peer_rates.next_rate(grid, tried) == 3.0
    assert peer_rates.next_rate(grid, {0.1: 0.9, 0.3: 0.5, 1.0: 0.4}) == pytest.approx(0.1 / 3, abs=1e-6)
    assert peer_rates.next_rate(grid, {0.1: 0.4, 0.3: 0.5, 1.0: 0.4}) is None
    assert peer_rates.next_rate(grid, {0.1: 1, 0.3: 2, 1.0: 3, 3.0: 4, 9.0: 5}) is None  # enough


def test_a_run_that_ends_early_is_repeated_once_and_the_repetition_counts(tmp_path: Path) -> None:
    early, late = (row("resnet18", 1, 0, acc) | {"off_budget": off} for acc, off in ((0.4, -0.2), (0.5, 0.2)))
    job = peers.Job("resnet18", 1, 0)
    series.append(tmp_path, early)
    assert not peers.is_done(job, tmp_path)
    series.append(tmp_path, early | {"test_acc": 0.45})
    assert peers.is_done(job, tmp_path)
    (found,) = peer_results.summarize(series.read(tmp_path))
    assert (found["n"], found["test_acc"]["mean"]) == (1, 0.45)
    series.append(tmp_path, late | {"seed": 1})
    assert peers.is_done(peers.Job("resnet18", 1, 1), tmp_path)


def test_the_lead_is_that_of_welch() -> None:
    ours, theirs = [0.92, 0.93, 0.94], [0.52, 0.54, 0.56, 0.62]
    rows = [row(series.DAYBREAK, 5, seed, 0.1, acc) for seed, acc in enumerate(ours)]
    rows += [row("resnet18", 5, seed, acc) for seed, acc in enumerate(theirs)]
    first, second = peer_results.summarize([*rows, {"peer": "resnet18", "minutes": 5, "seed": 9, "failed": "nan"}])
    assert "lead" not in first
    a, b = (np.var(values, ddof=1) / len(values) for values in (ours, theirs))
    difference, freedom = np.mean(ours) - np.mean(theirs), (a + b) ** 2 / (a**2 / 2 + b**2 / 3)  # Welch 1947
    assert second["lead"]["mean"] == pytest.approx(difference)
    assert second["lead"]["p"] == pytest.approx(2 * stats.t.sf(difference / np.sqrt(a + b), freedom))
    half = stats.t.isf(0.025, freedom) * np.sqrt(a + b)
    assert [second["lead"]["low"], second["lead"]["high"]] == pytest.approx([difference - half, difference + half])
    assert "lead" not in peer_results.summarize(rows[:4])[1]  # one run has no spread


def test_an_interrupted_series_goes_on_with_what_is_missing(
    pixels: common.Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, record = tmp_path / "tiny.npz", tmp_path / "record"
    np.savez(source, **{name: getattr(pixels, name) for name in pixels.__dataclass_fields__})
    with pytest.raises(KeyboardInterrupt):
        run_series(monkeypatch, record, source, broken=True)
    assert [(r["peer"], r["seed"]) for r in series.read(record)] == [("resnet18", 0), ("seed_page", 0)]
    assert run_series(monkeypatch, record, source, broken=False) == ["resnet18-1", "seed_page-1"]
    assert run_series(monkeypatch, record, source, broken=False) == []
    rows = series.read(record)
    assert rows[1]["failed"] == "exit code 1: Error: file.npz is odd"
    assert [r.get("flagged") for r in rows] == [False, None, True, True]  # 64 s are 6.7 % off a minute
    resnet, seed = json.loads((record / "peers.json").read_text())["results"]
    assert (resnet["n"], resnet["failed"], resnet["off_budget"]) == (2, 0, 1)
    assert resnet["test_acc"]["values"] == [0.5, 0.6]
    assert (resnet["test_acc"]["mean"], resnet["test_acc"]["std"]) == pytest.approx((0.55, 0.1 / 2**0.5))
    assert (seed["n"], seed["failed"]) == (1, 1)
    assert (record / "peers.svg").read_text().count("resnet18") >= 1
    assert "55.00 ± 7.07" in capsys.readouterr().out
    assert str(tmp_path) not in "".join(p.read_text() for p in record.iterdir())


def test_a_record_of_another_machine_is_not_gone_on_with(tmp_path: Path) -> None:
    series.open_record(tmp_path, {"hardware": "a"})
    series.open_record(tmp_path, {"hardware": "a"})
    with pytest.raises(SystemExit, match="another machine"):
        series.open_record(tmp_path, {"hardware": "b"})


def test_summary_prefers_the_accuracy_a_user_gets() -> None:
    plain, tta = peer_results.summarize([row("a", 5, 0, 0.8), row("b", 5, 0, 0.8, 0.82)])
    assert (peer_results.best(plain)["mean"], peer_results.best(tta)["mean"]) == (0.8, 0.82)
    assert peer_results.best(peer_results.summarize([{"peer": "c", "minutes": 5, "seed": 0, "failed": "x"}])[0]) is None


def test_commands(tmp_path: Path) -> None:
    python, pixels_file = tmp_path / "bin" / "python", tmp_path / "p.npz"
    ours = peers.command(peers.Job("daybreak", 2.5, 3), python, "cifar10", pixels_file, tmp_path)
    assert ours[1:7] == ["train", "cifar10", "--budget", "2.5m", "--seed", "3"]
    assert ours[7:10] == ["--device", "cpu", "--json"]
    theirs = peers.command(peers.Job("resnet18", 2.5, 3), python, "cifar10", pixels_file, tmp_path)
    assert Path(theirs[1]).is_file()
    assert theirs[2:] == ["--pixels", str(pixels_file), "--budget", "150", "--rate", "1", "--seed", "3"]
    known = peers.command(peers.Job("resnet18", 2.5, 3, rate=0.3, steps=70), python, "cifar10", pixels_file, tmp_path)
    assert known[4:] == ["--steps", "70", "--rate", "0.3", "--seed", "3"]


def test_run_returns_code_output_and_last_words(capfd: pytest.CaptureFixture[str]) -> None:
    script = "import sys; print('out'); print('one\\ntwo\\n', file=sys.stderr); sys.exit(3)"
    assert peers.run([sys.executable, "-c", script], 60) == (3, "out\n", "two")
    assert "one" in capfd.readouterr().err


def test_peers_are_all_there_and_pin_what_they_need() -> None:
    scripts = {path.stem for path in (BENCHMARKS / "peers").glob("*.py")} - {"common", "plain"}
    assert scripts == set(peers.PEERS)
    for name in peers.PEERS:
        needs = peer_environments.requirements(BENCHMARKS / "peers" / f"{name}.py")
        assert all("==" in need for need in needs)
        assert bool(needs) == (name.split("_")[0] in ("lightning", "fastai", "keras", "finetune"))
        assert not needs or needs[0] == f"torch=={torch.__version__.partition('+')[0]}"


def test_the_independent_peers_do_not_use_daybreak() -> None:
    for path in (BENCHMARKS / "peers").glob("*.py"):
        assert "import daybreak" not in path.read_text()
        assert "from daybreak" not in path.read_text()


def fake_pip(monkeypatch: pytest.MonkeyPatch, names: list[str]) -> list[list[str]]:
    calls = []

    def run_quietly(line: list[str]) -> Any:
        calls.append(line)
        if "--report" in line:
            report = {"install": [{"metadata": {"name": name}} for name in names]}
            Path(line[line.index("--report") + 1]).write_text(json.dumps(report))
        return argparse.Namespace(returncode=0, stderr="")

    monkeypatch.setattr(peer_environments, "run_quietly", run_quietly)
    return calls


def test_cuda_packages_are_refused_before_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_pip(monkeypatch, ["torch", "nvidia-cublas", "nvidia-cudnn"])
    with pytest.raises(RuntimeError, match=r"CUDA packages \(nvidia-cublas and 1 more\)"):
        peer_environments.install(["pip"], ("torch==2",))
    assert len(calls) == 1
    calls = fake_pip(monkeypatch, ["torch", "keras"])
    peer_environments.install(["pip"], ("torch==2",))
    assert calls[1] == ["pip", "torch==2"]


def test_what_does_not_load_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Path:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(peer_environments, "environment", refuse)
    pythons, reasons = peer_environments.environments(["resnet18", "fastai_resnet18"], tmp_path)
    assert pythons == {"resnet18": Path(sys.executable)}
    assert reasons == {"fastai_resnet18": "not installable here: operator torchvision::nms does not exist"}
    assert reasons["fastai_resnet18"] in peer_results.table([], reasons)
