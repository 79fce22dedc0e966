"""Which images the curves of a run show beside the training part's."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Part = Literal["val", "test"]

PART_NAMES: dict[Part, str] = {"val": "validation", "test": "test"}


def curve_part(rows: Sequence[Mapping[str, Any]]) -> Part:
    """The prefix of the held-out figures in epoch rows: "val" where the run has a validation part, else "test"."""
    return "val" if any("val_acc" in row for row in rows) else "test"
