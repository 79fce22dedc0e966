"""What the heads of a Parquet file's pages claim, which is looked at before pyarrow believes it.

pyarrow unpacks a page whole, takes as much memory as its head says, and ends the process where some other facts of the
file's foot are damaged. Foot and heads are structures of parquet.thrift in Thrift's compact protocol
(https://parquet.apache.org/docs/file-format, https://github.com/apache/thrift/blob/master/doc/specs); only the few
fields are kept that say where pages are and how large.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAGIC = b"PAR1"
LARGEST = 256 * 2**20  # bytes of a page, once it is unpacked; writers aim at one megabyte
DEEPEST = 32  # structures within one another
DATA, INDEX, DICTIONARY, DATA_V2 = range(4)
# Of texts that are stored by what differs, pyarrow makes a list of all lengths first, as long as the page says: a few
# bytes can stand for gigabytes.
BY_DIFFERENCES = (6, 7)  # DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY

_YES, _NO, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_LONGEST = 10  # bytes of a number
_Struct = Mapping[tuple[int, int], Any]  # by number and type of a field: others of that number are not it


class Chunk(NamedTuple):
    """Where the pages of a column in a row group are: bytes of the file, and the values in them."""

    start: int
    end: int
    values: int


def chunks_of(content: Any) -> list[list[Chunk]]:
    """Of each row group each column's, by the foot of a file.

    Args:
        content: the file, as anything that is sliced into bytes.

    Raises:
        ValueError: the foot is damaged.
    """
    length = int.from_bytes(content[-8:-4], "little")
    if content[-4:] != MAGIC or length > len(content) - 12:
        raise ValueError("its foot is damaged")
    try:
        foot = _Reader(content[len(content) - 8 - length : len(content) - 8]).structure()
    except EOFError:
        raise ValueError("its foot breaks off") from None
    groups = foot.get((4, _LIST), ())
    return [[_chunk(column, len(content)) for column in _field(group, 1, _LIST)] for group in groups]


def _chunk(column: Any, size: int) -> Chunk:
    facts = _field(column, 3, _STRUCT)
    length, values, start = (_field(facts, number, _I64) for number in (7, 5, 9))
    dictionary = facts.get((11, _I64), 0)
    start = dictionary if 0 < dictionary < start else start
    if not 0 <= start <= start + length <= size:
        raise ValueError("its foot names places that are not in it")
    return Chunk(start, start + length, values)


def unpacked(content: Any, chunk: Chunk) -> int:
    """The bytes in the pages of a column in a row group, once they are unpacked.

    Raises:
        ValueError: a page's head is damaged, or claims what cannot be.
    """
    total, seen, at = 0, 0, chunk.start
    while seen < chunk.values and at < chunk.end:
        head, length = _head(content, at, chunk.end)
        kind, large, stored = (_field(head, number, _I32) for number in (1, 2, 3))
        at += length + stored
        if stored < 0 or large < 0 or at > chunk.end:
            raise ValueError("a page is longer than its column")
        if max(large, stored) > LARGEST:
            raise ValueError(f"a page of {max(large, stored):,} bytes, more than {LARGEST:,}")
        total += max(large, stored)
        seen += _values(head, kind, large)
    return total


def _head(content: Any, start: int, end: int) -> tuple[_Struct, int]:
    """A page's head and its length, which is some bytes; statistics can make it longer."""
    for most in (2**10, 2**24):
        reader = _Reader(content[start : min(end, start + most)])
        try:
            return reader.structure(), reader.at
        except EOFError:
            pass
    raise ValueError("a page's head breaks off")


def _values(head: _Struct, kind: int, large: int) -> int:
    """How many rows a page has; those of a dictionary are none."""
    where = {DATA: (5, 2), DICTIONARY: (7, 2), DATA_V2: (8, 4)}.get(kind)
    if where is None:
        return 0
    facts = _field(head, where[0], _STRUCT)
    values, encoding = _field(facts, 1, _I32), _field(facts, where[1], _I32)
    if encoding in BY_DIFFERENCES:
        raise ValueError("texts that are stored by their differences, which can claim any length")
    if values < 0 or (kind == DICTIONARY and values > large):
        raise ValueError(f"a page of {large:,} bytes with {values:,} values")
    return 0 if kind == DICTIONARY else values


def _field(found: Any, number: int, kind: int) -> Any:
    try:
        return found[number, kind]
    except (KeyError, TypeError):
        raise ValueError("what says where its values are is damaged") from None


class _Reader:
    """Thrift's compact protocol, from bytes.

    Attributes:
        at: how many of them have been read.
    """

    def __init__(self, content: bytes) -> None:
        self._content, self.at = content, 0

    def structure(self, depth: int = 0) -> _Struct:
        """A structure's fields, the last of those that have one number and one type.

        Raises:
            EOFError: it breaks off.
            ValueError: it makes no sense.
        """
        if depth > DEEPEST:
            raise ValueError("too many structures within one another")
        return dict(self._fields(depth))

    def _fields(self, depth: int) -> Iterator[tuple[tuple[int, int], Any]]:
        number = 0
        while byte := self._take(1)[0]:
            step, kind = divmod(byte, 16)
            number = number + step if step else self._number(16)
            yield (number, kind), (kind == _YES if kind in (_YES, _NO) else self._value(kind, depth))

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_YES, _NO, _BYTE):  # of a list
            return self._take(1)[0]
        if kind in (_I16, _I32, _I64):
            return self._number(16 * 2 ** (kind - _I16))
        if kind == _DOUBLE:
            return struct.unpack("<d", self._take(8))[0]
        if kind == _BINARY:
            return self._take(self._unsigned())
        if kind == _STRUCT:
            return self.structure(depth + 1)
        if kind in (_LIST, _SET):
            count, of = divmod(self._take(1)[0], 16)
            return self._several([of], count if count < 15 else self._unsigned(), depth)
        if kind == _MAP:
            count = self._unsigned()
            return self._several(divmod(self._take(1)[0], 16), count, depth) if count else []
        raise ValueError(f"a field of an unknown type, {kind}")

    def _several(self, kinds: Any, count: int, depth: int) -> list[Any]:
        if count > len(self._content) - self.at:  # each takes a byte at least
            raise EOFError
        if depth > DEEPEST:
            raise ValueError("too many structures within one another")
        return [self._value(kind, depth + 1) for _ in range(count) for kind in kinds]

    def _number(self, bits: int) -> int:
        """(Others take the lower bits of one that is too large, and would then see another number than we do.)"""
        unsigned = self._unsigned()
        if unsigned >> bits:
            raise ValueError("a number is too large")
        return (unsigned >> 1) ^ -(unsigned & 1)

    def _unsigned(self) -> int:
        found = 0
        for place in range(_LONGEST):
            byte = self._take(1)[0]
            found |= (byte & 127) << 7 * place
            if byte < 128:
                return found
        raise ValueError("a number that does not end")

    def _take(self, count: int) -> bytes:
        if count > len(self._content) - self.at:
            raise EOFError
        self.at += count
        return self._content[self.at - count : self.at]
