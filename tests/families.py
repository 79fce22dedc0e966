"""The nets of the family as parameters of a test; on the large ones it is slow."""

from collections.abc import Iterable
from typing import Any

import pytest

LARGE = {"inception", "lite2", "resnext29"}


def with_large_ones_slow(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in names]
