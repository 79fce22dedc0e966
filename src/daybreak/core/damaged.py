"""What reading damaged bytes raises: what the libraries mean to, and what escapes them where bytes make no sense."""

import lzma
import struct
import tarfile
import tokenize
import zipfile
import zlib

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
