"""`silc check` says of each checkpoint whether every byte is as it was written."""

from __future__ import annotations

import pytest

from silc.commands import check
from tests.train.test_checkpoint import save


@pytest.fixture
def run(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    return tmp_path


def test_whole_ones(run, capsys):
    assert check.main([str(run)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("step_00000001: whole, 4 files")
    assert second.startswith("step_00000002: whole")
    assert check.main([str(run / "checkpoints" / "step_00000002")]) == 0
    assert capsys.readouterr().out.count("whole") == 1


def test_a_changed_byte_is_named_and_nothing_is_changed(run, capsys):
    file = run / "checkpoints" / "step_00000001" / "engine" / "shard"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    (run / "checkpoints" / "step_00000003.tmp").mkdir()
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert check.main([str(run)]) == 1
    said = capsys.readouterr()
    assert "step_00000001: DAMAGED: engine/shard is not as it was written" in said.out
    assert "step_00000003.tmp: being written" in said.out
    assert "1 checkpoint of 2 damaged" in said.err
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before


def test_a_damaged_manifest(run, capsys):
    (run / "checkpoints" / "step_00000002" / "manifest.json").write_text("{")
    assert check.main([str(run)]) == 1
    assert "step_00000002: DAMAGED" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "words"), [("none", "does not exist"), (".", "holds no checkpoint")])
def test_nothing_there(tmp_path, capsys, name, words):
    assert check.main([str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err
