"""Archives that are damaged, that lie about themselves, or that other programs write in ways of their own."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from image_sets import CLASSES, encode, notes_of, pixels, sample_files, write_tar, write_zip

from daybreak.core.errors import DataError
from daybreak.data import archives, open_dataset
from daybreak.data import tar as tar_module

pytestmark = pytest.mark.usefixtures("cache")

MIB = 2**20
PNG = encode(pixels(1)[0])
BLOCK = 512


def fails(path: Path, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        open_dataset(path)
    assert "\n" not in str(caught.value)
    assert "; try: " in str(caught.value)


def tar_of(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def header(name: str = "train/ant/x.png", kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, size, link
    return member.tobuf(tarfile.GNU_FORMAT)


def pax(record: str, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header of one record, which begins with its own length."""
    line = f"{len(record) + 4} {record}\n".encode()
    assert len(line) == len(record) + 4
    return header("pax", kind, len(line)) + line.ljust(BLOCK, b"\0")


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# -- zip ---------------------------------------------------------------------------------------------------------------


def zip_that_says(path: Path, size: int, content: bytes) -> Path:
    """A zip with a member whose entry in the directory gives another size, and the checksum of as many bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/ant/x.png", content)
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    struct.pack_into("<I", raw, entry + 16, zlib.crc32(content[:size]))
    struct.pack_into("<I", raw, entry + 24, size)
    return put(path, bytes(raw))


def test_a_member_inflates_to_little_more_than_it_says(tmp_path: Path) -> None:
    path = zip_that_says(tmp_path / "set.zip", 1000, bytes(64 * MIB))
    tracemalloc.start()
    try:
        with archives.open_archive(path) as container, container.open("train/ant/x.png") as file:
            assert file.read() == bytes(1000)
        _, largest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert largest < 4 * MIB


def test_a_member_of_zeros_that_says_1000_bytes_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", sample_files())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/ant/x.png", bytes(8 * MIB))
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, raw.rindex(b"PK\x01\x02") + 24, 1000)
    fails(put(path, bytes(raw)), "1 of 13 images cannot be used: train/ant/x.png: cannot be read .*CRC")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_another_compression_is_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in sample_files().items():
            archive.writestr(name, data)
    fails(path, f"'train/ant/000.png' is compressed by method {method}, not by deflate; try: an ordinary .zip")


def without_flag(path: Path) -> Path:
    """The same zip, whose names are no longer said to be UTF-8."""
    raw = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        found = raw.find(signature)
        while found >= 0:
            (flags,) = struct.unpack_from("<H", raw, found + at)
            struct.pack_into("<H", raw, found + at, flags & ~archives.UTF_8_NAME)
            found = raw.find(signature, found + 4)
    return put(path, bytes(raw))


def test_names_in_utf8_are_known_without_the_flag_for_it(tmp_path: Path) -> None:
    """As macOS writes them."""
    files = sample_files(classes=("bär", "鳥"))
    plain = open_dataset(write_zip(tmp_path / "plain.zip", files))
    without = open_dataset(without_flag(write_zip(tmp_path / "macos.zip", files)))
    assert without.classes == plain.classes == ("bär", "鳥")
    assert without.fingerprint == plain.fingerprint


def test_names_in_an_old_code_page_stay_what_they_are(tmp_path: Path) -> None:
    files = sample_files(classes=("b_r", "cat"))
    raw = write_zip(tmp_path / "dos.zip", files).read_bytes().replace(b"b_r", b"b\x84r")
    assert open_dataset(put(tmp_path / "dos.zip", raw)).classes == ("bär", "cat")


def test_a_folder_with_the_name_of_a_file_is_refused(tmp_path: Path) -> None:
    files, twice = sample_files(), "train/ant/000.png"
    why = f"two members are called '{twice}'"
    folder = tarfile.TarInfo(twice)
    folder.type = tarfile.DIRTYPE
    fails(write_zip(tmp_path / "after.zip", files | {f"{twice}/": b""}), why)
    fails(write_zip(tmp_path / "before.zip", {f"{twice}/": b""} | files), why)
    fails(write_tar(tmp_path / "after.tar", files, "w", (folder,)), why)
    fails(put(tmp_path / "before.tar", folder.tobuf() + tar_of(files)), why)


def test_a_link_with_the_name_of_another_is_refused(tmp_path: Path) -> None:
    links = [tarfile.TarInfo("train/ant/x.png") for _ in range(2)]
    for member, target in zip(links, ("train/ant/000.png", "train/bee/000.png"), strict=True):
        member.type, member.linkname = tarfile.LNKTYPE, target
    path = write_tar(tmp_path / "set.tar", sample_files(), "w", tuple(links))
    fails(path, "two members are called 'train/ant/x.png'")
    assert len(open_dataset(write_tar(path, sample_files(), "w", tuple(links[:1]))).train.names) == 7


def test_a_folder_may_be_listed_twice(tmp_path: Path) -> None:
    folder = tarfile.TarInfo("train/ant")
    folder.type = tarfile.DIRTYPE
    path = write_tar(tmp_path / "set.tar", sample_files(), "w", (folder, folder))
    assert open_dataset(path).classes == CLASSES


# -- tar ---------------------------------------------------------------------------------------------------------------

WHOLE = tar_of(sample_files())
SECOND = WHOLE.index(b"train/ant/001.png")  # where the second header begins
SIZES = [2**62, 2**40, -1, -511, -512, -1024]
READ_WHOLE = [b"L", b"K", b"x", b"g", b"X"]  # long names of GNU, headers of pax
DAMAGED: list[tuple[str, bytes, str]] = [
    ("a flipped bit in a header", WHOLE[:SECOND] + b"u" + WHOLE[SECOND + 1 :], "damaged or cut short .* checksum"),
    ("cut in a header", WHOLE[: SECOND + 100], "damaged or cut short .* truncated"),
    ("cut before a header", WHOLE[:SECOND], "cut short: its end is not marked"),
    ("cut in a file", WHOLE[: SECOND - BLOCK], "unexpected end of data"),
    ("a negative size in a pax header", pax("size=-0000512") + WHOLE, "a header says that -512 bytes follow it"),
    ("one for all that follow", pax("size=-0000512", b"g") + WHOLE, "a header says that -512 bytes follow it"),
    ("a size that no file has", pax(f"size={2**70}") + WHOLE, f"a header says that {2**70} bytes follow it"),
    ("a sparse file of GNU", header(kind=tarfile.GNUTYPE_SPARSE, size=2**50) + WHOLE, "a sparse file in it"),
    ("one of pax 0.0", pax("GNU.sparse.size=1000") + WHOLE, "a sparse file in it"),
    ("one of pax 0.1", pax("GNU.sparse.map=0,10") + WHOLE, "a sparse file in it"),
    ("a record of no length", WHOLE[:SECOND] + header("p", b"x", 8) + b"0 a=bcd\n".ljust(BLOCK), "invalid header"),
    ("a second archive", WHOLE + WHOLE, "a second archive begins after its end: unpack both"),
]  # fmt: skip
for kind in READ_WHOLE:
    for size in SIZES:
        DAMAGED.append((f"{kind!r} of {size}", header(kind=kind, size=size) + WHOLE, f"says that {size} bytes follow"))
for size in SIZES[2:]:
    DAMAGED.append((f"an image of {size}", header(size=size) + WHOLE, f"says that {size} bytes follow"))


@pytest.mark.parametrize(("content", "why"), [row[1:] for row in DAMAGED], ids=[row[0] for row in DAMAGED])
def test_a_damaged_tar_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    fails(put(tmp_path / "set.tar", content), f"set.tar: broken archive .*{why}")
    fails(put(tmp_path / "set.tar.gz", gzip.compress(content)), f"set.tar.gz: broken archive .*{why}")


def test_the_tar_that_was_damaged_is_sound(tmp_path: Path) -> None:
    """The control; also where the last record is not filled up, or with what POSIX leaves undefined."""
    files = len(WHOLE.rstrip(b"\0"))
    for content in (WHOLE, WHOLE[: files + -files % BLOCK] + bytes(2 * BLOCK), WHOLE + b"junk" * 300):
        assert len(open_dataset(put(tmp_path / "set.tar", content)).train.names) == 6


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)  # a dictionary of 256 KiB


COMPRESSED = pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, xz], ids=["gz", "bz2", "xz"])


@COMPRESSED
def test_a_compressed_tar_may_consist_of_several_streams(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """Called .tar.gz all three: the content says how it is compressed."""
    dataset = open_dataset(put(tmp_path / "set.tar.gz", compress(WHOLE[:2000]) + compress(WHOLE[2000:])))
    assert (dataset.train.images_NHWC == pixels(6)).all()
    assert len(dataset.test.names) == 6


@COMPRESSED
def test_a_tar_may_be_compressed_without_saying_so(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    assert open_dataset(put(tmp_path / "set.tar", compress(WHOLE))).classes == CLASSES


def test_the_checksum_of_a_gzip_counts(tmp_path: Path) -> None:
    whole = gzip.compress(WHOLE)
    fails(put(tmp_path / "set.tar.gz", whole[:-8] + bytes(4) + whole[-4:]), "broken archive .*CRC check failed")
    fails(put(tmp_path / "set.tar.gz", whole[:-4]), "broken archive .*ended before the end")


def test_two_gzips_of_a_tar_each_are_refused(tmp_path: Path) -> None:
    """As `cat` makes them: the second would be left out."""
    other = gzip.compress(tar_of({"train/ant/9.png": PNG}))
    fails(put(tmp_path / "set.tar.gz", gzip.compress(WHOLE) + other), "a second archive begins after its end")


def test_zeros_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_module, "MAX_BEHIND", 4 * MIB)
    open_dataset(put(tmp_path / "set.tar.gz", gzip.compress(WHOLE + bytes(3 * MIB))))
    fails(put(tmp_path / "set.tar.gz", gzip.compress(WHOLE + bytes(5 * MIB))), "more than 4,194,304 bytes follow")


@COMPRESSED
def test_a_tar_is_decompressed_a_little_at_a_time(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """A few kilobytes are 32 MiB of zeros, which are said to be a name."""
    size = 32 * MIB
    path = put(tmp_path / "set.tar.bz2", compress(header("x", b"L", size) + bytes(size) + WHOLE))
    tracemalloc.start()
    try:
        fails(path, f"a header says that {size} bytes follow it")
        _, largest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert largest < 8 * MIB


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_as_long_as_a_path_may_be_are_read(tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz", format=form) as archive:
        for name in ("ant", "bee"):
            for image in range(2):
                member = tarfile.TarInfo(f"{name}/{('ä' * 39 + '/') * 90}{image}.png")
                member.size = len(PNG)
                archive.addfile(member, io.BytesIO(PNG))
    assert open_dataset(tmp_path / "set.tar.gz").classes == ("ant", "bee")


# -- shards ------------------------------------------------------------------------------------------------------------


def samples(count: int = 4) -> dict[str, bytes]:
    """Images of two classes, each with a label beside it."""
    images = enumerate(pixels(count))
    return {
        name: data
        for i, image in images
        for name, data in ((f"{i:04}.png", encode(image)), (f"{i:04}.cls", b"%d" % (i % 2)))
    }


def shards(folder: Path, last: bytes) -> Path:
    """A sound shard of each part, and one with this content."""
    folder.mkdir(exist_ok=True)
    put(folder / "train-0.tar", tar_of(samples()))
    put(folder / "test-0.tar", tar_of(samples(2)))
    put(folder / "train-1.tar", last)
    return folder


SHARD = tar_of(samples())
DAMAGED_SHARDS = [
    ("cut before a header", SHARD[: SHARD.index(b"0003.png")], "its end is not marked"),
    ("a flipped bit", SHARD.replace(b"0003.png", b"0002.png", 1), "bad checksum"),
    ("a negative size", header("a.png", size=-1024) + SHARD, "says that -1024 bytes follow"),
    ("one that leads back to itself", SHARD[: 4 * BLOCK] + header("a", size=-512) + SHARD, "says that -512 bytes"),
    ("a long name of 2**62 bytes", header("a", tarfile.GNUTYPE_LONGNAME, 2**62) + SHARD, f"says that {2**62} bytes"),
    ("an image of 2**80 bytes", header("a.png", size=2**80) + SHARD, f"says that {2**80} bytes follow"),
    ("a sparse image", header("a.png", tarfile.GNUTYPE_SPARSE) + SHARD, "a sparse file in it"),
    ("a sparse image of pax", pax("GNU.sparse.size=1000") + SHARD, "a sparse file in it"),
    ("a second archive", SHARD + SHARD, "a second archive begins after its end"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "why"), [row[1:] for row in DAMAGED_SHARDS], ids=[row[0] for row in DAMAGED_SHARDS]
)
def test_a_damaged_shard_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    said = f"train-1.tar: cannot be read as a tar .*{why}.*; try: make or download it again"
    fails(shards(tmp_path / "set", content), said)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_shard_are_refused(tmp_path: Path, kind: bytes) -> None:
    folder = shards(tmp_path / "set", header("9.png", kind, link="0000.png") + SHARD)
    fails(folder, "train-1.tar: 9.png is a link; try: store the file instead")


def test_labels_without_an_image_are_counted(tmp_path: Path) -> None:
    """As those of a photo in a format that is not read."""
    folder = shards(tmp_path / "set", tar_of(samples() | {"9.heic": b"x", "9.cls": b"0"}))
    dataset = open_dataset(folder)
    assert notes_of(dataset) == ("1 label without an image left out: train-1/9.cls",)
    assert len(dataset.train.names) == 8
    many = {f"{i:02}x.txt": b"0" for i in range(12)}
    (note,) = notes_of(open_dataset(shards(folder, tar_of(samples() | many))))
    assert note.startswith("12 labels without an image left out: train-1/00x.txt, train-1/01x.txt, ")
    assert note.endswith("train-1/09x.txt and 2 more")
    assert notes_of(open_dataset(shards(folder, SHARD))) == ()  # the control, also for the damaged ones


def test_two_labels_of_a_sample_are_refused(tmp_path: Path) -> None:
    other = tar_of({"0000.cls": b"1"})[: 2 * BLOCK]  # without an end
    folder = shards(tmp_path / "set", other + SHARD)
    fails(folder, r"train-1.tar: 0000.png has 2 .cls files with a label; try: one label a sample")
    fails(shards(folder, tar_of(samples() | {"0000.coarse.cls": b"1"})), "0000.png has 2 .cls files with a label")


def test_two_captions_beside_a_label_are_none(tmp_path: Path) -> None:
    captions = {"0000.short.txt": b"an ant", "0000.long.txt": b"an ant on a leaf"}
    assert open_dataset(shards(tmp_path / "set", tar_of(samples() | captions))).classes == ("0", "1")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    mark = "\ufeff".encode()
    texts = {"8.png": PNG, "8.cls": mark + b"0", "9.png": PNG, "9.json": mark + b'{"label": "1"}'}
    folder = shards(tmp_path / "set", tar_of(samples() | texts))
    assert open_dataset(folder).classes == ("0", "1")
    (folder / "classes.txt").write_bytes(mark + b"ant\r\nbee\r\n")
    dataset = open_dataset(folder)
    assert dataset.classes == ("ant", "bee")
    assert dict(zip(dataset.train.names, dataset.train.labels_N.tolist(), strict=True))["train-1/9.png"] == 1
