"""Where files are written: a link stays a link, a pipe a pipe, and what cannot be written is said beforehand."""

import os
import threading
from pathlib import Path

import pytest

from topoface.errors import UserError
from topoface.files import require_writable, write_bytes, write_text


def test_a_link_stays_and_what_it_names_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    for text in ("one", "two"):  # what it names is absent, then there
        write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file").read_text() == text
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["file"]


def test_a_pipe_stays_and_gets_the_bytes(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    require_writable(pipe)
    write_bytes(pipe, b"all of it")
    reader.join(timeout=5)
    assert got == [b"all of it"]
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_name_that_is_no_utf8_is_spelled_with_backslashes(tmp_path: Path) -> None:
    write_text(tmp_path / "page", f"image {os.fsdecode(bytes([0xFF]))}.png, é")
    assert (tmp_path / "page").read_text("utf-8") == "image \\udcff.png, é"


def test_what_cannot_be_written_is_said_beforehand_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "new")
    for place, said in (
        (tmp_path, "is a folder"),
        (Path("/"), "is a folder"),
        (tmp_path / "absent" / "new", "make the folder first"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UserError, match=said):
            require_writable(place)
        with pytest.raises(UserError, match="cannot be written"):
            write_bytes(place, b"")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match="check the rights"):
        require_writable(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
