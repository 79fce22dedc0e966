"""The numbers of minimal filtering: F(m×m, 3×3), by the method of Cook and Toom.

A tile of m×m outputs of a 3×3 convolution takes 9·m² multiplications if they are computed one by one, and (m+2)² if
input and filter are first evaluated as polynomials at m + 2 points (Winograd 1980; Lavin & Gray 2015, arXiv
1509.09308):

    Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A

The points are 0, ∞ and pairs ±p: with pairs, the two sums of a pair share their even and odd parts, and half of the
arithmetic of a transform is gone. Which pairs lose the fewest digits was measured: `benchmarks/winograd.py points`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
PAIRS = {2: (1.0,), 4: (5 / 8, 3 / 2), 6: (1 / 2, 1.0, 2.0)}  # the points ±p of F(m×m, 3×3), by m


@dataclass(frozen=True)
class Minimal:
    """F(m×m, 3×3) with the points 0, ±p for each of `pairs`, and ∞; m is twice the number of pairs."""

    pairs: tuple[float, ...]

    @property
    def m(self) -> int:
        """Outputs of a tile, in either direction."""
        return 2 * len(self.pairs)

    @property
    def side(self) -> int:
        """Inputs of a tile, in either direction."""
        return self.m + 2

    @cached_property
    def points(self) -> tuple[float, ...]:
        """All points but ∞, in the order of the rows of Bᵀ and G."""
        return (0.0, *(sign * p for p in self.pairs for sign in (1, -1)))

    @cached_property
    def input(self) -> Matrix:
        """Bᵀ (m+2, m+2): for each point the coefficients of the product of (x - a) over the *other* points."""
        rows = [polynomial.polyfromroots([b for b in self.points if b != a]) for a in self.points]
        return np.stack([np.pad(row, (0, 1)) for row in rows] + [polynomial.polyfromroots(self.points)])

    @cached_property
    def filter(self) -> Matrix:
        """G (m+2, 3): powers of each point, divided by the product of its distances to the others."""
        rows = [np.power(a, np.arange(3)) / np.prod([a - b for b in self.points if b != a]) for a in self.points]
        return np.stack([*rows, np.array([0.0, 0.0, 1.0])])

    @cached_property
    def output(self) -> Matrix:
        """Aᵀ (m, m+2): powers of each point."""
        last = np.arange(self.m) == self.m - 1
        return np.stack([*(np.power(a, np.arange(self.m)) for a in self.points), last.astype(float)], 1)

    @cached_property
    def squares(self) -> Matrix:
        """Coefficients in x² of Π (x² - q²), over all pairs in row 0 and over all but pair i in row i + 1: what the
        native transforms are made of, (pairs + 1, pairs + 1)."""
        every = [p * p for p in self.pairs]
        kept = [every, *([q for j, q in enumerate(every) if j != i] for i in range(len(every)))]
        return np.stack([np.pad(found := polynomial.polyfromroots(r), (0, len(every) + 1 - len(found))) for r in kept])

    def tiles(self, height: int, width: int) -> tuple[int, int]:
        """How many tiles cover a map, down and across."""
        return -(-height // self.m), -(-width // self.m)

    def products(self, height: int, width: int) -> int:
        """Multiplications for one input and one output channel over a map; the direct form has 9 a pixel."""
        down, across = self.tiles(height, width)
        return down * across * self.side**2

    def __str__(self) -> str:
        return f"F({self.m}×{self.m}, 3×3)"


KNOWN = {m: Minimal(pairs) for m, pairs in PAIRS.items()}


def min_products(height: int, width: int, sides: tuple[int, ...] = (4, 2)) -> Minimal:
    """Of F(m×m, 3×3) with m in `sides`, the one that covers a map with the fewest multiplications."""
    return min((KNOWN[m] for m in sides), key=lambda kind: kind.products(height, width))
