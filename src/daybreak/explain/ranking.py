"""Which maps are the most faithful at which stage, as we measured it (docs/explanation.md).

By ROAD in `benchmarks/records/2026-11-28_faithfulness`: the mean over the stages before the last, and the last. A test
compares these lists with the record.
"""

from collections.abc import Sequence

from daybreak.explain.cam import Method

BEFORE_THE_LAST: tuple[Method, ...] = ("layer-cam", "grad-cam++", "hires-cam", "eigen-cam", "grad-cam")
AT_THE_LAST: tuple[Method, ...] = ("score-cam", "grad-cam", "grad-cam++", "hires-cam", "layer-cam", "eigen-cam")
MASKED_PIXELS = 12_000_000  # that Score-CAM may take through the net where nobody has asked for it: a few seconds


def most_faithful(stages: Sequence[str], *, masks: bool = False) -> dict[str, Method]:
    """The best method of each stage.

    Args:
        stages: in order of depth.
        masks: whether Score-CAM may be one of them, which takes a forward pass for each channel.
    """
    last = next(method for method in AT_THE_LAST if masks or method != "score-cam")
    return dict.fromkeys(stages[:-1], BEFORE_THE_LAST[0]) | dict.fromkeys(stages[-1:], last)


def can_mask(maps: int, channels: int, size: int) -> bool:
    """Whether so many maps by Score-CAM are affordable, at a stage of `channels` for images of `size` px."""
    return maps * channels * size**2 <= MASKED_PIXELS
