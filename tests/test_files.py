"""Files are whole or absent, with the permissions of any new file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from silc import files

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(params=[0o022, 0o027], ids=["022", "027"])
def umask(request):
    """The process's umask."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    files.write_text(tmp_path / "text", "a")
    with files.replacing(tmp_path / "weights.safetensors") as draft:
        save_file({"w": torch.ones(2)}, draft)
    for name in ("text", "weights.safetensors"):
        assert mode(tmp_path / name) == 0o666 & ~umask


def test_an_earlier_file_is_replaced_and_its_permissions_too(tmp_path, umask):
    (tmp_path / "text").write_text("earlier, and longer")
    (tmp_path / "text").chmod(0o600)
    files.write_text(tmp_path / "text", "näher")
    assert (tmp_path / "text").read_text(encoding="utf-8") == "näher"
    assert mode(tmp_path / "text") == 0o666 & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_writer_that_fails_leaves_the_earlier_file_and_no_draft(tmp_path):
    (tmp_path / "text").write_text("earlier")

    def half(path: Path) -> None:
        with files.replacing(path) as draft:
            draft.write_text("hal")
            raise OSError(28, "No space left on device")

    for name in ("text", "new"):
        with pytest.raises(OSError, match="No space"):
            half(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text() == "earlier"


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "text", []

    def sync(descriptor: int) -> None:
        seen.append(("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file", path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    files.write_text(path, "a")
    assert seen == [("file", False), ("folder", True)]


def test_a_missing_folder_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_text(tmp_path / "none" / "text", "a")


def test_the_module_needs_the_standard_library_alone():
    code = "import sys, silc.files; assert not {'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_only_regular_files_of_a_limited_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("12345")
    (tmp_path / "link").symlink_to("/dev/zero")
    files.check_regular(tmp_path / "text", 5)
    for path, message in (("pipe", "a pipe"), ("link", "device"), (".", "is a folder")):
        with pytest.raises(ValueError, match=message):
            files.check_regular(tmp_path / path)
    with pytest.raises(ValueError, match="has 5 bytes; at most 4"):
        files.check_regular(tmp_path / "text", 4)
    with pytest.raises(FileNotFoundError):
        files.check_regular(tmp_path / "none")


def test_files_of_others_are_read_within_limits(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": [1]}')
    assert files.read_regular(path, 10) == b'{"a": [1]}'
    assert files.read_json(path, 10) == {"a": [1]}
    for read in (files.read_regular, files.read_text, files.read_json):
        with pytest.raises(ValueError, match=r"a\.json has 10 bytes; at most 9 are read"):
            read(path, 9)
        with pytest.raises(ValueError, match="is a folder; give a regular file"):
            read(tmp_path, 9)
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none", 9)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe, socket or device"):
        files.read_json(tmp_path / "pipe", 9)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe", "is not UTF-8 text: byte 0 is 0xff"),
        (b"[" * 100_000, "is not valid JSON: values are nested too deep"),
        (b'{"a": ' * 100_000, "is not valid JSON: values are nested too deep"),
        (b"9" * 5000, "is not valid JSON: Exceeds the limit"),
        (b"{", "is not valid JSON: Expecting"),
        (b"", "is not valid JSON: Expecting"),
    ],
)
def test_what_is_no_json_is_told_in_words(tmp_path, data, words):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=words) as caught:
        files.read_json(tmp_path / "a.json", 1 << 20)
    assert type(caught.value) is ValueError
    assert str(tmp_path) in str(caught.value)


def test_json_may_be_asked_to_name_a_field_once():
    assert files.parse_json('{"a": 1, "a": 2}') == {"a": 2}
    assert files.parse_json('{"a": {"b": 1}, "b": 2}', unique=True) == {"a": {"b": 1}, "b": 2}
    with pytest.raises(ValueError, match="'b' is named twice"):
        files.parse_json('{"a": {"b": 1, "c": 2, "b": 1}}', unique=True)
    with pytest.raises(ValueError, match="nested too deep"):
        files.parse_json('{"a":' * 100_000, unique=True)
