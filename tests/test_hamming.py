"""Near hashes by their chunks are those that comparing all pairs finds, in the same order and in bounded memory."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data import hamming
from daybreak.data.hamming import MAX_BITS, MAX_EACH, Hashes, near_pairs

WORDS = st.integers(0, 2**64 - 1)


def all_pairs(asked_N: Hashes, known_M: Hashes) -> Iterator[tuple[int, int]]:
    """The reference: every pair is compared."""
    for n, asked in enumerate(asked_N):
        bits_M = np.bitwise_count(asked ^ known_M)
        near = np.flatnonzero(bits_M <= MAX_BITS)
        yield from ((n, int(m)) for m in near[np.argsort(bits_M[near], kind="stable")][:MAX_EACH])


def words(values: list[int]) -> Hashes:
    return np.array(values, np.uint64)


def flipped(rng: np.random.Generator, hashes_N: Hashes, at_most: int) -> Hashes:
    """Each with up to so many bits changed, anywhere."""
    found = hashes_N.copy()
    for n in range(len(found)):
        for bit in rng.choice(64, rng.integers(0, at_most + 1), replace=False):
            found[n] ^= np.uint64(1) << np.uint64(bit)
    return found


@given(st.lists(WORDS, max_size=6), st.integers(0, 120), st.integers(0, 120), st.integers(0, 24), st.randoms())
def test_it_finds_what_comparing_all_pairs_finds(
    centres: list[int], asked: int, known: int, spread: int, random: object
) -> None:
    """Clouds of hashes around a few centres: near and equal ones in plenty, more than are listed."""
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    cloud = words(centres or [0])
    asked_N, known_M = (flipped(rng, rng.choice(cloud, size), spread) for size in (asked, known))
    assert list(near_pairs(asked_N, known_M)) == list(all_pairs(asked_N, known_M))


@given(WORDS, st.sets(st.integers(0, 63), max_size=13))
def test_ten_bits_anywhere_are_near_and_eleven_are_not(word: int, bits: set[int]) -> None:
    other = word ^ sum(1 << bit for bit in bits)
    assert list(near_pairs(words([word]), words([other]))) == ([(0, 0)] if len(bits) <= 10 else [])


def test_three_flips_in_each_of_three_chunks_leave_one_bit_for_the_fourth() -> None:
    """The pigeonhole at its tightest: 3 + 3 + 3 + 1, and 2 in the only chunk that is near enough."""
    three, two, one = 0b111, 0b11, 0b1
    for near in range(4):
        for bits, is_near in ((one, True), (two, False)):
            other = sum((bits if chunk == near else three) << 16 * chunk for chunk in range(4))
            assert list(near_pairs(words([0]), words([other]))) == ([(0, 0)] if is_near else [])
    assert list(near_pairs(words([0]), words([0b111 | 0b111 << 16 | 0b11 << 32 | 0b11 << 48]))) == [(0, 0)]


def test_nothing_is_near_nothing() -> None:
    none, one = words([]), words([1])
    assert [list(near_pairs(*hashes)) for hashes in ((none, none), (none, one), (one, none))] == [[], [], []]


@pytest.mark.parametrize("hits", [1, 50, 2**21])
def test_blocks_of_any_size_give_the_same(hits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    asked_N, known_M = (flipped(rng, rng.choice(words([0, 2**40 - 1]), size), 9) for size in (70, 90))
    monkeypatch.setattr(hamming, "MAX_HITS", hits)
    monkeypatch.setattr(hamming, "BLOCK", 16)
    assert list(near_pairs(asked_N, known_M)) == list(all_pairs(asked_N, known_M))


def peak_bytes(asked_N: Hashes, known_M: Hashes) -> tuple[int, int]:
    """How many pairs there are, and the most memory that finding them took."""
    tracemalloc.start()
    try:
        return sum(1 for _ in near_pairs(asked_N, known_M)), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_images_of_one_colour_fill_no_memory() -> None:
    """All hashes equal: 400 million pairs, of which 32 are listed for each."""
    one_colour = np.full(20_000, 2**63, np.uint64)
    pairs, peak = peak_bytes(one_colour, one_colour)
    assert pairs == 20_000 * MAX_EACH
    assert peak < 100 * 2**20
    few = list(near_pairs(one_colour[:3], one_colour))
    assert few == list(all_pairs(one_colour[:3], one_colour))


def test_unlike_hashes_with_a_chunk_in_common_fill_no_memory() -> None:
    """All in one bucket, and none near another: 16 million hits, 128 MiB an array if all were taken at once."""
    rng = np.random.default_rng(0)
    hashes_N = rng.integers(0, 2**48, 4000, dtype=np.uint64) << np.uint64(16)
    pairs, peak = peak_bytes(hashes_N, hashes_N)
    assert pairs == len(list(all_pairs(hashes_N, hashes_N)))
    assert peak < 300 * 2**20
