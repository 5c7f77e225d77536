"""An archive whose content is damaged is read as far as it goes, and never ends in a traceback."""

import zipfile
from pathlib import Path

import pytest

from builder.model.archives import record_of


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_record_is_empty(method: int, tmp_path: Path) -> None:
    path, content = tmp_path / "net.pt", bytes(range(256)) * 40
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("net/data.pkl", content)
    assert record_of(path, "data.pkl", len(content)) == content
    whole = bytearray(path.read_bytes())
    start = whole.index(b"net/data.pkl") + len("net/data.pkl")
    whole[start : start + 60] = b"\xff" * 60
    path.write_bytes(whole)
    assert record_of(path, "data.pkl", len(content)) == b""
