"""`silc export`: what it refuses to write over, and what it says when it cannot write."""

from __future__ import annotations

from silc.commands.export import main
from silc.interchange.read.open_clip import CONFIG
from silc.train import checkpoint


def refused(capsys, *words) -> str:
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_a_folder_of_other_files_is_left_alone(capsys, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoint, "find", lambda path, only: path)
    monkeypatch.setattr(checkpoint, "export_open_clip", lambda path, out, teacher: written.append(out))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert "holds other files and no earlier export" in refused(capsys, "run", tmp_path / "mine")
    assert written == []
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / CONFIG).write_text("{}")
    for out in (tmp_path / "earlier", tmp_path / "new"):
        assert main(["run", str(out)]) == 0
    assert written == [tmp_path / "earlier", tmp_path / "new"]


def test_what_cannot_be_written_is_told_without_a_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "find", lambda path, only: path)
    monkeypatch.setattr(checkpoint, "export_open_clip", lambda path, out, teacher: out.mkdir())
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file is a file; an export is a folder" in refused(capsys, "run", tmp_path / "file")
    said = refused(capsys, "run", tmp_path / "file" / "out")
    assert f"run cannot be exported to {tmp_path}/file/out: " in said
    assert "Not a directory" in said


def test_an_export_is_not_exported_again(capsys, tmp_path):
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / CONFIG).write_text("{}")
    said = refused(capsys, tmp_path / "open_clip", tmp_path / "new")
    assert f"{tmp_path}/open_clip is already an export; give a run folder or a checkpoint" in said
    assert not (tmp_path / "new").exists()
