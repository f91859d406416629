"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import os

import pytest

from kdtutor.errors import KDTutorError
from kdtutor.files import FORSAKEN, sha256, write_atomically


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "results.json"
    for text in ("first", "Größe\n"):
        write_atomically(path, text)
        assert path.read_bytes() == text.encode("utf-8")
    assert [*tmp_path.iterdir()] == [path]
    assert sha256(path) == hashlib.sha256("Größe\n".encode()).hexdigest()


@pytest.mark.parametrize("fails", ["writing", "replacing"])
def test_a_file_that_cannot_be_written_is_named_and_stays_as_it_was(tmp_path, monkeypatch, fails):
    path = tmp_path / "results.json"
    path.write_text("before")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if fails == "writing":
        monkeypatch.setattr(type(path), "write_text", full)
    else:
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises(KDTutorError, match=r"results\.json cannot be written: No space left"):
        write_atomically(path, "after")
    monkeypatch.undo()
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == "before"


def test_what_a_killed_process_left_is_removed_and_what_another_writes_now_is_not(tmp_path):
    old, folder = tmp_path / ".results.json-1.partial", tmp_path / ".results.json-abc.partial"
    now, anothers, mine = (
        tmp_path / name for name in (".results.json-2.partial", ".other-1.partial", ".results.json-1")
    )
    folder.mkdir()
    for path in (old, folder / "model", now, anothers, mine):
        path.write_text("half")
    for path in (old, folder, anothers, mine):
        os.utime(path, (0, path.stat().st_mtime - FORSAKEN - 1))
    write_atomically(tmp_path / "results.json", "whole")
    assert {*tmp_path.iterdir()} == {tmp_path / "results.json", now, anothers, mine}
