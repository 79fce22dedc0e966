"""Image data sets from a name, a folder, an archive or arrays, decoded once into memory-mapped uint8 files.

Stands on core and knows no torch. From outside: the names below, and `dataset`, `split`, `duplicates`.
"""

from daybreak.data.dataset import Dataset, Split
from daybreak.data.decode import decode_image
from daybreak.data.describe import check_strictly, contact_sheet, describe
from daybreak.data.image import DecodeSpec
from daybreak.data.open import open_dataset

__all__ = [
    "Dataset",
    "DecodeSpec",
    "Split",
    "check_strictly",
    "contact_sheet",
    "decode_image",
    "describe",
    "open_dataset",
]
