"""Parquet's pages are found where pyarrow says they are, and their heads are not believed blindly."""

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybreak.data.pages import Chunk, _Reader, chunks_of, unpacked

BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(3, 13)


def unsigned(value: int) -> bytes:
    head = bytes([value & 127 | (128 if value > 127 else 0)])
    return head + unsigned(value >> 7) if value > 127 else head


def number(value: int) -> bytes:
    """Zigzag: 0, -1, 1, -2 are 0, 1, 2, 3."""
    return unsigned(2 * value if value >= 0 else -2 * value - 1)


def encoded(fields: dict[tuple[int, int], Any]) -> bytes:
    """A structure of Thrift's compact protocol."""
    found, before = b"", 0
    for (at, kind), value in fields.items():
        step = at - before
        kind_now = kind if kind > 2 else (1 if value else 2)
        found += bytes([16 * step + kind_now]) if 0 < step < 16 else bytes([kind_now]) + number(at)
        found, before = found + (b"" if kind < 3 else value_of(kind, value)), at
    return found + b"\0"


def value_of(kind: int, value: Any) -> bytes:
    if kind in (I16, I32, I64):
        return number(value)
    if kind == STRUCT:
        return encoded(value)
    if kind in (LIST, SET):
        of, values = value
        head = bytes([16 * len(values) + of]) if len(values) < 15 else bytes([15 * 16 + of]) + unsigned(len(values))
        return head + b"".join(value_of(of, each) for each in values)
    if kind == MAP:
        kinds, pairs = value
        head = unsigned(len(pairs)) + (bytes([16 * kinds[0] + kinds[1]]) if pairs else b"")
        return head + b"".join(value_of(k, each) for pair in pairs for k, each in zip(kinds, pair, strict=True))
    return {BYTE: lambda: bytes([value]), DOUBLE: lambda: struct.pack("<d", value)}.get(
        kind, lambda: unsigned(len(value)) + value
    )()


def head(kind: int = 0, large: int = 10, stored: int = 10, values: int = 2, encoding: int = 0) -> bytes:
    """A page and its head."""
    facts = {(1, I32): values, (4 if kind == 3 else 2, I32): encoding}
    where = {0: 5, 2: 7, 3: 8}.get(kind, 6)
    return encoded({(1, I32): kind, (2, I32): large, (3, I32): stored, (where, STRUCT): facts}) + b"x" * max(0, stored)


def of_pages(*pages: bytes, values: int = 4) -> int:
    content = b"before" + b"".join(pages)
    return unpacked(content + b"after", Chunk(6, len(content), values))


# -- against pyarrow ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_pages_are_found_where_pyarrow_writes_them(tmp_path: Path, version: str, compression: str) -> None:
    whole = pa.schema([pa.field("n", pa.int32(), nullable=False), pa.field("s", pa.struct({"a": pa.binary()}))])
    table = pa.table(
        {"n": pa.array(range(5000), pa.int32()), "s": [{"a": b"%d" % (n % 7)} for n in range(5000)]}, whole
    )
    pq.write_table(
        table, tmp_path / "x", row_group_size=2000, compression=compression, data_page_version=version,
        use_dictionary=["s.a"], data_page_size=1000, write_batch_size=100,
    )  # fmt: skip
    content, metadata = (tmp_path / "x").read_bytes(), pq.ParquetFile(tmp_path / "x").metadata
    chunks = chunks_of(content)
    for group, rows in enumerate((2000, 2000, 1000)):
        for column in range(2):
            facts = metadata.row_group(group).column(column)
            start = facts.dictionary_page_offset or facts.data_page_offset
            assert chunks[group][column] == Chunk(start, start + facts.total_compressed_size, rows)
        # Plain numbers, none of which can be missing; snappy makes some pages longer than they are unpacked.
        assert 4 * rows <= unpacked(content, chunks[group][0]) <= 4 * rows * (1.01 if compression == "snappy" else 1)
        facts = metadata.row_group(group).column(1)
        assert facts.has_dictionary_page
        heads = facts.total_uncompressed_size - unpacked(content, chunks[group][1])
        assert 0 < heads < 0.5 * facts.total_uncompressed_size


def test_a_head_is_longer_with_statistics(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([b"x" * 3000, b"y" * 3000], pa.binary())})
    pq.write_table(table, tmp_path / "x", use_dictionary=False, compression="none", write_page_index=False)
    content = (tmp_path / "x").read_bytes()
    (chunk,) = chunks_of(content)[0]
    assert chunk.end - chunk.start > 4 * 3000  # twice as values, twice as the least and the largest
    assert unpacked(content, chunk) == 4 + 2 + 2 * 3004  # how long the levels are, the levels, the values


# -- what is claimed ---------------------------------------------------------------------------------------------------


def test_what_pages_hold_is_added_up() -> None:
    assert of_pages(head(2, 50, 30, 5), head(0, 100, 7), head(0, 3, 90)) == 50 + 100 + 90
    assert of_pages(head(), head(), b"bytes that belong to nothing") == 20
    assert of_pages(head(3), head(1, 4, 4, 99), head(3)) == 24  # an index has no values
    assert of_pages(head()) == 10  # the others are missing, which pyarrow says
    assert of_pages(head(large=256 * 2**20)) == 256 * 2**20


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (head(large=256 * 2**20 + 1), "a page of 268,435,457 bytes, more than 268,435,456"),
        (head(large=-1), "a page is longer than its column"),
        (head(stored=-1), "a page is longer than its column"),
        (head()[:-1], "a page is longer than its column"),
        (head(values=-1), "a page of 10 bytes with -1 values"),
        (head(2, values=11), "a page of 10 bytes with 11 values"),
        (head(encoding=6), "texts that are stored by their differences"),
        (head(3, encoding=7), "texts that are stored by their differences"),
        (head()[:5], "a page's head breaks off"),
        (encoded({(1, I32): 0, (2, I64): 10, (3, I32): 10}), "what says where its values are is damaged"),
        (encoded({(1, I32): 0, (2, I32): 0, (3, I32): 0}), "what says where its values are is damaged"),
        (b"\x15\x00\x15" + unsigned(2**32 + 20), "a number is too large"),
        (b"\x15" + b"\x80" * 10, "a number that does not end"),
        (b"\x1d", "a field of an unknown type, 13"),
        (b"\x1c" * 40, "too many structures within one another"),
        (b"\x19\x19" + b"\x19" * 40, "too many structures within one another"),
        (b"\x19\xf5\xff\xff\xff\xff\x0f", "a page's head breaks off"),
        (b"\x1b\xff\xff\xff\xff\x0f\x55", "a page's head breaks off"),
    ],
)
def test_a_head_that_claims_what_cannot_be_is_refused(page: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        of_pages(page)


def test_a_field_of_another_type_is_not_it() -> None:
    """Readers pass over it, so it must not hide the one that they take."""
    page = head(large=2**30)
    hidden = page[: page.index(b"\0" + b"x" * 10)] + bytes([I64]) + number(2) + number(5) + b"\0" + b"x" * 10
    with pytest.raises(ValueError, match="a page of 1,073,741,824 bytes"):
        of_pages(hidden)


def with_foot(foot: bytes) -> bytes:
    return b"PAR1" + foot + struct.pack("<I", len(foot)) + b"PAR1"


def foot_of(**changed: Any) -> bytes:
    facts = {(5, I64): 2, (7, I64): 10, (9, I64): 4} | changed.get("facts", {})
    column = {(3, STRUCT): facts}
    return encoded({(4, LIST): (STRUCT, [{(1, LIST): (STRUCT, [column])}])})


def test_the_foot_says_where_columns_are() -> None:
    assert chunks_of(with_foot(foot_of())) == [[Chunk(4, 14, 2)]]
    assert chunks_of(with_foot(foot_of(facts={(11, I64): 3}))) == [[Chunk(3, 13, 2)]]
    assert chunks_of(with_foot(foot_of(facts={(11, I64): 0}))) == [[Chunk(4, 14, 2)]]
    assert chunks_of(with_foot(b"\0")) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "its foot is damaged"),
        (with_foot(foot_of())[:-1] + b"2", "its foot is damaged"),
        (b"PAR1" + struct.pack("<I", 1) + b"PAR1", "its foot is damaged"),
        (with_foot(foot_of()[:-1]), "its foot breaks off"),
        (with_foot(foot_of(facts={(7, I64): 1000})), "its foot names places that are not in it"),
        (with_foot(foot_of(facts={(7, I64): -1})), "its foot names places that are not in it"),
        (with_foot(foot_of(facts={(9, I64): -1})), "its foot names places that are not in it"),
        (with_foot(encoded({(4, LIST): (I32, [1])})), "what says where its values are is damaged"),
        (with_foot(encoded({(4, LIST): (STRUCT, [{(1, LIST): (STRUCT, [{}])}])})), "what says where its values are"),
    ],
)
def test_a_foot_that_is_damaged_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        chunks_of(content)


# -- the protocol ------------------------------------------------------------------------------------------------------


NUMBERS = {I16: st.integers(-(2**15), 2**15 - 1), I32: st.integers(-(2**31), 2**31 - 1)}
PLAIN: dict[int, st.SearchStrategy[Any]] = NUMBERS | {
    I64: st.integers(-(2**63), 2**63 - 1), BINARY: st.binary(max_size=40), BYTE: st.integers(0, 255),
    DOUBLE: st.floats(allow_nan=False),
}  # fmt: skip


def fields(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[tuple[int, int], Any]]:
    def one(kind: int) -> st.SearchStrategy[Any]:
        if kind == STRUCT:
            return inner
        if kind in (LIST, SET):
            return st.sampled_from(sorted(PLAIN)).flatmap(
                lambda of: st.tuples(st.just(of), st.lists(PLAIN[of], max_size=20))
            )
        if kind == MAP:
            return st.tuples(st.just((I32, BINARY)), st.lists(st.tuples(PLAIN[I32], PLAIN[BINARY]), max_size=3))
        return st.booleans() if kind == 1 else PLAIN[kind]

    at = st.integers(-(2**15), 2**15 - 1)
    keys = st.lists(st.tuples(at, st.sampled_from([1, *range(BYTE, STRUCT + 1)])), max_size=4, unique=True)
    return keys.flatmap(lambda found: st.fixed_dictionaries({key: one(key[1]) for key in found}))


def as_read(found: dict[tuple[int, int], Any]) -> dict[tuple[int, int], Any]:
    """Lists without what they are of, and each boolean as the type that it has."""
    read: dict[tuple[int, int], Any] = {}
    for (at, kind), value in found.items():
        if kind == 1:
            read[at, 1 if value else 2] = value
        elif kind == STRUCT:
            read[at, kind] = as_read(value)
        elif kind == MAP:
            read[at, kind] = [each for pair in value[1] for each in pair]
        else:
            read[at, kind] = value[1] if kind in (LIST, SET) else value
    return read


@given(found=fields(fields(st.just({}))))
def test_what_is_written_is_read(found: dict[tuple[int, int], Any]) -> None:
    data = encoded(found)
    reader = _Reader(data + b"behind")
    assert reader.structure() == as_read(found)
    assert reader.at == len(data)
    for cut in range(len(data)):
        with pytest.raises(EOFError):
            _Reader(data[:cut]).structure()


@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """By other errors the test fails."""
    with suppress(ValueError):
        assert unpacked(data, Chunk(0, len(data), 9)) >= 0
    with suppress(ValueError):
        assert isinstance(chunks_of(with_foot(data)), list)
