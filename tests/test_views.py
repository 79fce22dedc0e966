"""What a net sees: known filters, known channels, known directions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daybreak.core.nets import net_config
from daybreak.explain.features import (
    activation_sheets,
    filter_sheet,
    first_filters,
    observe,
    principal_plane,
    top_images,
)
from daybreak.models.registry import build_net
from daybreak.report.chart import Chart, Line, svg, thinned, ticks
from daybreak.runs.classifier import Classifier
from daybreak.runs.transforms import Normalizer

CPU = torch.device("cpu")


class Means(nn.Module):
    """One stage: the colour channels averaged over 8×8 px; the head adds them up."""

    stages = ("layer1",)

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.AvgPool2d(8, 8)
        self.head = nn.Linear(3 * 16, 2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.head(self.layer1(x_NCHW).flatten(1))


def means() -> Classifier:
    return Classifier(Means(), ("a", "b"), 32, Normalizer((0.0,) * 3, (1.0,) * 3), CPU, torch.float32)


@pytest.fixture
def spots() -> np.ndarray:
    """Image i has a spot of colour i % 3 in cell i of a 4×4 grid, the brighter the larger i; nothing else."""
    images = np.zeros((12, 32, 32, 3), np.uint8)
    for i in range(12):
        row, column = divmod(i, 4)
        images[i, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8, i % 3] = 20 * (i + 1)
    return images


def test_peaks_and_where_they_are(spots: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daybreak.explain.features.images_a_forward", lambda *_: 5)
    seen = observe(means(), spots, "layer1")
    assert seen.peaks_NK.shape == (12, 3)
    assert seen.embeddings_ND.shape == (12, 48)
    for i in range(12):
        assert seen.peaks_NK[i, i % 3] == pytest.approx(20 * (i + 1) / 255)
        assert divmod(int(seen.cells_NK[i, i % 3]), seen.width) == divmod(i, 4)


def test_the_images_that_activate_a_channel_most_and_their_receptive_fields(spots: np.ndarray) -> None:
    classifier = means()
    found = top_images(classifier, observe(classifier, spots, "layer1"), "layer1", channels=3, images=2)
    assert {e.channel: e.images for e in found} == {0: (9, 6), 1: (10, 7), 2: (11, 8)}
    assert found[0].channel == 2  # the brightest spots: its peaks differ most
    assert found[0].boxes == ((24, 16, 32, 24), (0, 16, 8, 24))


def test_the_net_is_left_as_it_was_found(spots: np.ndarray) -> None:
    net = build_net(net_config(name="sprint", width=0.1), 10, 3)
    classifier = replace(means(), net=net)
    observe(classifier, spots, "layer2")
    activation_sheets(classifier, spots[0])
    assert net.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())


def test_the_principal_plane_is_pcas() -> None:
    """Points along (3, 4) with a little along (-4, 3): the first axis has the former, whatever the mean."""
    rng = np.random.default_rng(0)
    along, across = 10 * rng.standard_normal(500), rng.standard_normal(500)
    points = np.outer(along, [0.6, 0.8]) + np.outer(across, [-0.8, 0.6]) + [100, -50]
    plane = principal_plane(points.astype(np.float32))
    assert np.corrcoef(plane[:, 0], along)[0, 1] == pytest.approx(1, abs=1e-3)
    assert abs(np.corrcoef(plane[:, 1], across)[0, 1]) == pytest.approx(1, abs=1e-2)
    singular = np.linalg.svd(points - points.mean(0))[1]
    assert np.linalg.norm(plane, axis=0) == pytest.approx(singular, rel=1e-4)


def test_filters_are_grey_where_they_are_zero() -> None:
    net = build_net(net_config(name="page", width=0.1), 10, 3)
    conv = net.get_submodule("prep.conv")
    weight = torch.zeros_like(conv.weight)  # type: ignore[arg-type]
    weight[0, 2, 1, 1], weight[1, 0, 0, 2] = 0.5, -7.0
    conv.weight.data = weight
    filters = first_filters(net)
    assert filters is not None
    assert filters.shape == (6, 3, 3, 3)
    assert (filters[0, 1, 1, 2], filters[1, 0, 2, 0]) == (1.0, 0.0)
    assert np.count_nonzero(filters != 0.5) == 2
    sheet = filter_sheet(net, columns=4, size=6)
    assert sheet is not None
    assert sheet.size == (4 * 8 - 2, 2 * 8 - 2)


def test_activations_are_relative_to_the_stage(spots: np.ndarray) -> None:
    sheets = activation_sheets(means(), spots[5], channels=2, size=4)
    pixels = np.asarray(sheets["layer1"].convert("L"))
    assert pixels.shape == (4, 4 + 2 + 4)
    assert pixels[1, 1] == 255  # the strongest channel comes first, its spot in cell (1, 1)
    assert pixels.sum() == 255


# -- charts -----------------------------------------------------------------------------------------------------------


def test_ticks_are_round_and_cover_the_values() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(87.3, 91.2) == [87, 88, 89, 90, 91, 92]
    assert ticks(5, 5) == pytest.approx([5, 6])
    for low, high in ((0.003, 0.0041), (-12.5, 3e4), (1e-9, 2e-9), (0, 0)):
        found = ticks(low, high)
        assert found[0] <= low + 1e-12
        assert found[-1] >= high - 1e-12
        assert 2 <= len(found) <= 8


def test_many_points_are_thinned_and_the_last_stays() -> None:
    points = [(float(n), float(n)) for n in range(2345)]
    kept = thinned(points)
    assert len(kept) <= 401
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert thinned(points[:3]) == points[:3]


def test_a_chart_is_text_that_a_screen_reader_can_say() -> None:
    chart = Chart('<b>"acc"', "epoch", "%", [Line("te<st", "test", [(1, 50.0), (2, 75.0)]), Line("none", "x", [])])
    text = str(svg(chart))
    assert "<b>" not in text
    assert 'aria-label="&lt;b&gt;&quot;acc&quot; by epoch: te&lt;st from 50 to 75"' in text
    assert text.count("<polyline") == 1
    assert "<svg" in str(svg(Chart("empty", "x", "y", [])))
