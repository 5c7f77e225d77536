"""Arrays from files that anybody may have written: what NumPy writes is read, and no claim of a file is believed."""

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder import arrays as of_builder
from builder.arrays import read_npy, read_npz
from builder.tensors import Array
from loadtest.checking import archives as of_loadtest

LIMIT = 1 << 20
PEAK = 64 << 20
"""More than any of these small files may need, in bytes."""

HONEST = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
    "big-endian": np.arange(6, dtype=">i8").reshape(2, 3),
    "big-endian text": np.array(["a", "größer"]).astype(">U6"),
    "scalar": np.array(5.0),
    "no values": np.zeros((0, 3), np.float16),
    "text": np.array([["a", "größer"], ["", "\U0001f600"]]),
    "booleans": np.array([True, False]),
    "not a number": np.array([np.nan, np.inf]),
    "bytes": np.array([b"ab"]),
}


@pytest.mark.parametrize("array", HONEST.values(), ids=HONEST)
def test_what_numpy_writes_is_read_in_the_machines_own_byte_order(tmp_path: Path, array: Array) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", a=array)
    np.savez_compressed(tmp_path / "b.npz", a=array)
    archives = (tmp_path / "a.npz", tmp_path / "b.npz")
    found = [read_npy(tmp_path / "a.npy", limit=LIMIT), *(read_npz(path)["a"] for path in archives)]
    found += [of_loadtest.read_arrays(path)["a"] for path in archives]
    for one in found:
        assert one.dtype == array.dtype.newbyteorder("=")
        assert one.dtype.isnative
        np.testing.assert_array_equal(one, array)
        assert one.shape == array.shape


def test_a_file_of_python_2_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3L), }", bytes(24)))
    assert read_npy(tmp_path / "a.npy", limit=LIMIT).shape == (2, 3)


def npy(header: str, values: bytes = b"", *, version: bytes = b"\1\0", length: int | None = None) -> bytes:
    form = "<H" if version == b"\1\0" else "<I"
    count = len(header) if length is None else length
    return b"\x93NUMPY" + version + struct.pack(form, count) + header.encode("latin1") + values


def header(descr: str = "'<f4'", shape: str = "(2, 3)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def saved(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


DAMAGED = {
    "no array": b"hello",
    "nothing": b"",
    "cut short": npy(header(), bytes(23)),
    "too long": npy(header(), bytes(25)),
    "cut in the header": npy(header(), length=1000),
    "other magic": b"\x92NUMPY" + npy(header(), bytes(24))[6:],
    "version 9": npy(header(), bytes(24), version=b"\x09\0"),
    "a header of 4 GB": npy(header(), bytes(24), version=b"\2\0", length=2**32 - 1),
    "a header of 1 MB": npy(header() + " " * 1_000_000, bytes(24), version=b"\2\0"),
    "10^12 values": npy(header(shape="(1000000000000,)"), bytes(24)),
    "2^124 values": npy(header(shape="(4611686018427387904, 4611686018427387904)"), bytes(24)),
    "2^64 values": npy(header(shape="(4294967296, 4294967296)")),
    "a size of 5000 digits": npy(header(shape=f"(1{'0' * 5000},)"), bytes(24)),
    "a negative size": npy(header(shape="(-1,)"), bytes(24)),
    "100 dims": npy(header(shape=f"({'1,' * 100})"), bytes(4)),
    "objects": saved(np.array([{}])),
    "records": saved(np.zeros(2, [("a", "f4")])),
    "dates": saved(np.zeros(2, "M8[ns]")),
    "durations": saved(np.zeros(2, "m8[s]")),
    "void": saved(np.zeros(2, "V3")),
    "a type that does not exist": npy(header("'<f3'"), bytes(18)),
    "text of no width": npy(header("'<U0'", "(4611686018427387904,)")),
    "text of 4 GB": npy(header("'<U999999999'", "(1,)"), bytes(24)),
    "a type of 5000 brackets": npy(header("[" * 5000)),
    "a header of minus signs": npy("-" * 9000 + "1"),
    "no shape": npy("{'descr': '<f4', 'fortran_order': False}\n", bytes(24)),
    "two as a boolean": npy(header("'|b1'"), b"\2" * 6),
    "text beyond Unicode": npy(header("'<U1'"), b"\xff\xff\xff\x7f" * 6),
    "half a character": npy(header("'<U1'"), b"\0\xd8\0\0" * 6),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_an_array_that_is_none_is_a_value_error_and_takes_no_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    pack([("a.npy", content)], tmp_path / "a.npz")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"\w"):
            read_npy(tmp_path / "a.npy", limit=1 << 22)
        with pytest.raises(ValueError, match=r"^'a\.npy': "):
            read_npz(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < PEAK
    finally:
        tracemalloc.stop()


def pack(members: Sequence[tuple[str, bytes]], path: Path, *, how: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=how)


GOOD = npy(header(), bytes(24))


def edited(place: bytes, offset: int, new: bytes) -> Callable[[Path], None]:
    """Overwrite bytes of a good archive at an offset from the last place where some others are."""

    def make(path: Path) -> None:
        pack([("a.npy", GOOD)], path)
        content = bytearray(path.read_bytes())
        start = content.rindex(place) + offset
        content[start : start + len(new)] = new
        path.write_bytes(content)

    return make


def make_bomb(path: Path) -> None:
    """Pack 1 TB of zeros, as its directory says, into 1 kB."""
    pack([("a.npy", npy(header(shape="(250000000000,)"), bytes(1 << 20)))], path, how=zipfile.ZIP_DEFLATED)
    size = 250_000_000_000 * 4 + len(npy(header(shape="(250000000000,)")))
    content = bytearray(path.read_bytes())
    entry, end = content.rindex(b"PK\1\2"), content.rindex(b"PK\5\6")
    extra = struct.pack("<HHQ", 1, 8, size)
    content[entry + 24 : entry + 28] = b"\xff" * 4
    content[entry + 30 : entry + 32] = struct.pack("<H", len(extra))
    content[entry + 46 + 5 : entry + 46 + 5] = extra
    directory = struct.unpack("<I", content[end + len(extra) + 12 : end + len(extra) + 16])[0]
    content[end + len(extra) + 12 : end + len(extra) + 16] = struct.pack("<I", directory + len(extra))
    path.write_bytes(content)


ENTRY, END = b"PK\1\2", b"PK\5\6"
ARCHIVES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no archive": (lambda path: path.write_bytes(b"hello" * 100), "not an .npz archive"),
    "empty": (lambda path: path.write_bytes(b""), "not an .npz archive"),
    "one array": (lambda path: path.write_bytes(GOOD), "a single array without a name"),
    "a name twice": (lambda path: pack([("a.npy", GOOD), ("a", GOOD)], path), "the same name"),
    "bzip2": (lambda path: pack([("a.npy", GOOD)], path, how=zipfile.ZIP_BZIP2), "in a way that NumPy does not use"),
    "a text beside": (lambda path: pack([("a.npy", GOOD), ("readme", b"hello")], path), "'readme': it is not an array"),
    "a wrong checksum": (edited(b"NUMPY", len(GOOD) - 25, b"\xff"), "CRC"),
    "encrypted": (edited(ENTRY, 8, b"\1"), "damaged"),
    "a method of its own": (edited(ENTRY, 10, b"\x63"), "in a way that NumPy does not use"),
    "a member far away": (edited(ENTRY, 42, b"\xfe\xff\xff\x7f"), "damaged"),
    "a directory of 2 GB": (edited(END, 12, b"\xfe\xff\xff\x7f"), r"its list of members has|damaged"),
    "1 TB of zeros": (make_bomb, r"its arrays take 1\.0 TB, and only .* half of what this machine has left"),
}


@pytest.mark.parametrize(("make", "what"), ARCHIVES.values(), ids=ARCHIVES)
def test_a_damaged_archive_is_a_value_error_and_takes_no_memory(
    tmp_path: Path, make: Callable[[Path], Any], what: str
) -> None:
    make(tmp_path / "a.npz")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=what):
            read_npz(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < PEAK
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [make for name, (make, _) in ARCHIVES.items() if name != "a name twice"])
def test_the_load_test_refuses_a_damaged_archive_too(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"\w"):
        of_loadtest.read_arrays(tmp_path / "a.npz")


def test_a_directory_of_a_million_members_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_builder, "_MAX_DIRECTORY", 5000)
    pack([(f"{number}.npy", b"") for number in range(100)], tmp_path / "a.npz")
    with pytest.raises(ValueError, match="its list of members has"):
        read_npz(tmp_path / "a.npz")


def test_arrays_may_take_half_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(1000))
    monkeypatch.setattr(of_builder, "available_bytes", lambda: 20_000)
    assert len(read_npz(tmp_path / "a.npz")["a"]) == 1000
    monkeypatch.setattr(of_builder, "available_bytes", lambda: 16_000)
    with pytest.raises(ValueError, match=r"its arrays take 8\.1 kB, and only 8\.0 kB are read"):
        read_npz(tmp_path / "a.npz")


READERS = [read_npz, of_loadtest.read_arrays]
BOMB = np.zeros(1_000_000, np.float32)


@pytest.mark.parametrize("read", READERS)
def test_a_compressed_archive_is_read_only_where_one_was_written(tmp_path: Path, read: Callable[..., Any]) -> None:
    np.savez_compressed(tmp_path / "packed.npz", a=BOMB)
    np.savez(tmp_path / "stored.npz", a=BOMB)
    assert len(read(tmp_path / "packed.npz")["a"]) == len(read(tmp_path / "stored.npz", expansion=1)["a"]) == len(BOMB)
    with pytest.raises(ValueError, match=r"its arrays take 4\.0 MB, but the file can hold only"):
        read(tmp_path / "packed.npz", expansion=1)


@pytest.mark.parametrize("read", READERS)
def test_an_archive_whose_members_share_their_bytes_is_refused(tmp_path: Path, read: Callable[..., Any]) -> None:
    pack([("a.npy", GOOD)], tmp_path / "a.npz")
    content = (tmp_path / "a.npz").read_bytes()
    start, end = content.index(ENTRY), content.index(END)
    entries = b"".join(content[start:end].replace(b"a.npy", b"%05d" % number) for number in range(50))
    about = struct.pack("<HHII", 50, 50, len(entries), start)
    (tmp_path / "a.npz").write_bytes(content[:start] + entries + content[end : end + 8] + about + b"\0\0")
    with pytest.raises(ValueError, match="but the file can hold only"):
        read(tmp_path / "a.npz", expansion=1)
