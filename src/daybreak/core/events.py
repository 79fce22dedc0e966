"""What a training tells those who watch it."""

from collections.abc import Callable, Mapping
from typing import Any

Event = Mapping[str, Any]


OnEvent = Callable[[Event], None]
