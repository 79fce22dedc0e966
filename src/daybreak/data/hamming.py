"""Which of many 64-bit hashes differ from a given one in few bits, without comparing all pairs.

Multi-index hashing (Norouzi, Punjani & Fleet 2012, "Fast search in Hamming space with multi-index hashing"). A hash is
cut into four chunks of 16 bits. If two hashes differ in at most ten bits, they differ in at most two in at least one
chunk, so looking up the 137 values within two bits of each chunk finds every such pair. The differing bits of what
that finds are then counted.

Equal hashes (images of one colour, say) are looked up once, and at most `MAX_EACH` of them are ever listed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

MAX_BITS = 10  # in which two hashes that are near each other differ
MAX_EACH = 32  # near hashes that are listed for one: images of one colour are all near each other
CHUNKS, CHUNK_BITS = 4, 16
BLOCK = 1024  # hashes looked up at once …
MAX_HITS = 2**21  # … or fewer, where the table has more than these for them: 16 MiB an array

_FLIPS = np.array(  # all 16-bit numbers of at most two bits
    [sum(bits) for n in range(MAX_BITS // CHUNKS + 1) for bits in combinations([1 << b for b in range(CHUNK_BITS)], n)]
)


def near_pairs(asked_N: Hashes, known_M: Hashes) -> Iterator[tuple[int, int]]:
    """The pairs (n, m) whose hashes differ in at most MAX_BITS bits, in the order of n; for each n the MAX_EACH
    nearest, those of the smallest m among equally near ones."""
    table = _Table.of(known_M)
    asked_A, which_N = np.unique(asked_N, return_inverse=True)
    found = [_nearest(asked_A[at : at + BLOCK], table) for at in range(0, len(asked_A), BLOCK)]
    members = [each for block in found for each in block]
    for n, a in enumerate(which_N):
        yield from ((n, int(m)) for m in members[a])


@dataclass(frozen=True)
class _Table:
    """The U distinct ones among M hashes, to be looked up by the value v of a chunk.

    Attributes:
        members_M: positions among the M, by distinct hash and in ascending order.
        starts_U: where those of each hash begin, and their end.
        by_value_CU: the distinct hashes in the order of each chunk's value.
        starts_CV: where those of each value begin, and their end.
    """

    hashes_U: Hashes
    members_M: Integers
    starts_U: Integers
    by_value_CU: Integers
    starts_CV: Integers

    @classmethod
    def of(cls, hashes_M: Hashes) -> "_Table":
        hashes_U, which_M = np.unique(hashes_M, return_inverse=True)
        chunks_CU = _chunks(hashes_U)
        return cls(
            hashes_U,
            np.argsort(which_M, kind="stable"),
            _starts(which_M, len(hashes_U)),
            np.argsort(chunks_CU, axis=1, kind="stable"),
            np.stack([_starts(chunk_U, 2**CHUNK_BITS) for chunk_U in chunks_CU]),
        )


def _nearest(asked_A: Hashes, table: _Table) -> list[Integers]:
    """For each hash what `near_pairs` lists."""
    begin, count = _hits(asked_A, table)
    if count.sum() > MAX_HITS and len(asked_A) > 1:
        middle = len(asked_A) // 2
        return _nearest(asked_A[:middle], table) + _nearest(asked_A[middle:], table)
    chunk, a, _ = np.unravel_index(np.repeat(np.arange(count.size), count.ravel()), count.shape)
    u = table.by_value_CU[chunk, _ranges(begin.ravel(), count.ravel())]
    a, m = _members(*_near_hashes(asked_A, table, a, u), table)
    return np.split(m, np.searchsorted(a, np.arange(1, len(asked_A))))


def _near_hashes(asked_A: Hashes, table: _Table, a: Integers, u: Integers) -> tuple[Integers, Integers, Integers]:
    """Of pairs (a, u), some of which are there several times, the near ones and in how many bits they differ: for each
    a those that can have one of the MAX_EACH nearest members. (In this order the first member of each hash comes
    before all members of the hashes after it, so MAX_EACH hashes are enough.)"""
    bits = np.bitwise_count(asked_A[a] ^ table.hashes_U[u]).astype(np.int64)
    a, u, bits = (each[bits <= MAX_BITS] for each in (a, u, bits))
    order = np.lexsort((table.members_M[table.starts_U[u]], bits, a))
    a, u, bits = (each[order] for each in (a, u, bits))
    new = np.ones(len(a), bool)
    new[1:] = (a[1:] != a[:-1]) | (u[1:] != u[:-1])
    a, u, bits = (each[new] for each in (a, u, bits))
    near = _ranks(a) < MAX_EACH
    return a[near], u[near], bits[near]


def _members(a: Integers, u: Integers, bits: Integers, table: _Table) -> tuple[Integers, Integers]:
    """The pairs (a, m) behind the pairs (a, u), the nearest MAX_EACH for each a."""
    count = np.minimum(np.diff(table.starts_U)[u], MAX_EACH)
    m = table.members_M[_ranges(table.starts_U[u], count)]
    a, bits = np.repeat(a, count), np.repeat(bits, count)
    order = np.lexsort((m, bits, a))
    a, m = a[order], m[order]
    near = _ranks(a) < MAX_EACH
    return a[near], m[near]


def _hits(asked_A: Hashes, table: _Table) -> tuple[Integers, Integers]:
    """Where the hashes that share a chunk with each one, but for two bits, begin in the table's order, and how many
    there are: (C, A, F) each."""
    values_CAF = _chunks(asked_A)[:, :, None] ^ _FLIPS
    chunk_C11 = np.arange(CHUNKS)[:, None, None]
    begin = table.starts_CV[chunk_C11, values_CAF]
    return begin, table.starts_CV[chunk_C11, values_CAF + 1] - begin


def _chunks(hashes_N: Hashes) -> Integers:
    shifts_C1 = np.arange(0, 64, CHUNK_BITS, dtype=np.uint64)[:, None]
    return (hashes_N >> shifts_C1 & np.uint64(2**CHUNK_BITS - 1)).astype(np.int64)


def _starts(values_N: Integers, kinds: int) -> Integers:
    """Where each of the values 0 … kinds - 1 begins once they are sorted, and the end."""
    return np.concatenate([[0], np.cumsum(np.bincount(values_N, minlength=kinds))])


def _ranges(begin: Integers, count: Integers) -> Integers:
    """The numbers of all ranges, one after the other: begins 5, 2 and counts 3, 2 give 5, 6, 7, 2, 3."""
    before = np.cumsum(count) - count
    return np.repeat(begin - before, count) + np.arange(count.sum())


def _ranks(sorted_N: Integers) -> Integers:
    """How many equal values stand before each."""
    return np.arange(len(sorted_N)) - np.searchsorted(sorted_N, sorted_N)
