"""What reading damaged bytes raises: what the libraries mean to, and what escapes them where bytes make no sense.
Where they raise nothing, and hand out what is no array or no text, it is refused here."""

import lzma
import struct
import sys
import tarfile
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

# The length of nothing, a number that is cut off, a password that nobody asked for.
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    IndexError,
    RuntimeError,
)
# numpy reads the head of an array as Python, and may be told of a size that no machine has, or that is below zero.
BROKEN_ARRAY = (*BROKEN, SyntaxError, tokenize.TokenError, MemoryError, OverflowError)


def arrays_in(path: Path, *names: str) -> list[np.ndarray]:
    """Arrays of an .npz by their names. (Of a member that is no array numpy would give out the bytes.)

    Raises:
        KeyError, or one of BROKEN_ARRAY: there is no such array in it.
    """
    with np.load(path, allow_pickle=False) as members:
        found = [members[name] for name in names]
    if not all(isinstance(array, np.ndarray) for array in found):
        raise ValueError("a member is not an array")
    return found


def texts_of(array: np.ndarray) -> list[str]:
    """An array (N,) of text as a list. (From a number that is no character numpy would make a SystemError.)

    Raises:
        ValueError: it holds no text.
    """
    if array.dtype.kind != "U" or array.ndim != 1:
        raise ValueError("must be a one-dimensional array of strings")
    if (np.ascontiguousarray(array).view(f"{array.dtype.byteorder}u4") > sys.maxunicode).any():
        raise ValueError("has numbers in it that are no characters")
    return list(array.tolist())
