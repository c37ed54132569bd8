"""What a kill, a flipped byte or odd files leave of the checkpoints of a run: named, passed over, or put right."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from silc.config import Config, TrainConfig
from silc.errors import RunStopped
from silc.train import checkpoint, manifest, retention, saving
from silc.train.cadence import Cadence
from silc.train.loop import Trainer
from tests.train.test_checkpoint import FullDisk, StandIn, save, state_at, steps


def saver(run: Path, step: int = 1, **train: object) -> saving.Saver:
    return saving.Saver(run, Config(preset="mine", train=TrainConfig(**train)), state_at(step, StandIn()))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints."""
    run = tmp_path_factory.mktemp("run")
    for step in (1, 2):
        save(run, step, teacher=StandIn())
    return run


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_is_found_and_the_older_one_taken(pair, capsys, data):
    newer = checkpoint.place(pair, 2)
    files = sorted(path for path in newer.rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files), label="file")
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1), label="at")
    flipped = content[at] ^ data.draw(st.integers(1, 255), label="bits")
    file.write_bytes(content[:at] + bytes([flipped]) + content[at + 1 :])
    try:
        with pytest.raises(ValueError, match=file.name):
            checkpoint.find(pair)
        assert checkpoint.newest(pair) == checkpoint.place(pair, 1)
        assert file.name in capsys.readouterr().out
        assert not newer.exists()  # set aside, so that it does not count as one of those that are kept
    finally:
        with contextlib.suppress(FileNotFoundError):
            newer.with_suffix(".damaged").rename(newer)
        file.write_bytes(content)


def test_a_byte_of_latest_loses_nothing(pair):
    mark = pair / "checkpoints" / "latest"
    content = mark.read_bytes()
    for at in range(len(content)):
        for bit in (0, 7):
            mark.write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
            assert checkpoint.newest(pair) == checkpoint.place(pair, 2)
    mark.write_bytes(content)


def test_what_hashes_do_not_cover_is_the_callers_choice(tmp_path):
    """A model is read without hashing the optimiser's state, which is larger than it."""
    path = save(tmp_path, 1)
    shard = path / "engine" / "shard"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    assert checkpoint.find(tmp_path, only=checkpoint.WEIGHTS) == path
    with pytest.raises(ValueError, match="engine/shard is not as it was written"):
        checkpoint.find(tmp_path)


def test_a_planted_file_of_moments_is_named(tmp_path):
    path = save(tmp_path, 1)
    (path / "engine" / "moments_00009.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"engine/moments_00009\.safetensors is not in its manifest"):
        checkpoint.find(tmp_path)


def test_manifests_of_earlier_versions_are_read(tmp_path):
    """They had sizes alone; anything between the two is damage."""
    path = save(tmp_path, 1)
    found = json.loads((path / "manifest.json").read_text())
    earlier = {name: found[name] for name in ("format", "step", "files")}
    (path / "manifest.json").write_text(json.dumps(earlier, indent=1))
    assert checkpoint.find(tmp_path) == path
    (path / "trainer.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"trainer\.pt should hold"):
        checkpoint.find(tmp_path)
    (path / "manifest.json").write_text(json.dumps(earlier | {"sha256": found["sha256"]}, indent=1))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        checkpoint.find(tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a\0b"])
def test_a_manifest_names_only_files_inside(tmp_path, name):
    path = save(tmp_path, 1)
    found = json.loads((path / "manifest.json").read_text())
    text = json.dumps({"format": 3, "step": 1, "files": found["files"] | {name: 1}})
    (path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        checkpoint.find(tmp_path)


# A kill is a folder as some call left it: `interrupted` ends a save at its n-th change of the disk.
class Killed(BaseException):
    """Not an Exception: nothing in the program may catch it."""


CALLS = ("rename", "mkdir", "unlink", "replace", "write_bytes")


@contextlib.contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[list[int]]:
    """End with Killed at the change number `after` of Path and rmtree. Yields the number of changes made."""
    made = [0]

    def counted(inner):
        def call(*args, **kwargs):
            if made[0] >= after:
                raise Killed
            made[0] += 1
            return inner(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(Path, name, counted(getattr(Path, name)))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        yield made


def contents(path: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(path.rglob("*.safetensors")))).hexdigest()


@pytest.mark.parametrize("again", [False, True], ids=["next", "same step again"])
def test_at_no_change_of_the_disk_does_a_kill_lose_the_checkpoint_before(tmp_path, monkeypatch, again):
    """Also when step 2 is saved twice, and when a start after the kill is killed too."""
    for after in range(200):
        run = tmp_path / str(after)
        save(run, 1, keep=1)
        before = save(run, 2, keep=1) if again else checkpoint.place(run, 1)
        with interrupted(monkeypatch, after) as made, contextlib.suppress(Killed):
            save(run, 2, keep=1, teacher=StandIn())
        found = checkpoint.newest(run)
        assert found in (before, checkpoint.place(run, 2)), after
        assert checkpoint.verify(found)
        save(run, 3, keep=1)  # and the next save clears what was left
        left = sorted(path.name for path in (run / "checkpoints").iterdir() if path.is_dir())
        assert left == ["step_00000003"], after
        if made[0] < after:
            break
    assert 15 < after < 199


def test_the_kill_shows_that_it_reaches_every_part(tmp_path, monkeypatch):
    """The sweep above is worth something: with all changes allowed the save is whole."""
    with interrupted(monkeypatch, 10**9) as made:
        path = save(tmp_path, 2)
    assert checkpoint.find(tmp_path) == path
    assert made[0] > 15


def test_a_complete_draft_is_taken_and_named(tmp_path, capsys):
    path = save(tmp_path, 4)
    path.rename(path.with_suffix(".tmp"))
    with pytest.raises(ValueError, match=r"no whole checkpoint \(train.resume=auto takes step_00000004.tmp"):
        checkpoint.find(tmp_path)
    assert checkpoint.newest(tmp_path) == path
    assert "step_00000004.tmp is whole, the job ended before it was put in place" in capsys.readouterr().out


def test_a_complete_draft_is_not_removed_by_the_next_save(tmp_path):
    """By a run that went on from another folder, say."""
    path = save(tmp_path, 4)
    path.rename(path.with_suffix(".tmp"))
    save(tmp_path, 5)
    assert steps(tmp_path) == [4, 5]


def test_an_unfinished_draft_alone_is_said(tmp_path, capsys):
    (tmp_path / "checkpoints" / "step_00000004.tmp").mkdir(parents=True)
    assert checkpoint.newest(tmp_path) is None
    assert "holds no whole checkpoint: step_00000004.tmp was not finished" in capsys.readouterr().out


def test_a_damaged_checkpoint_alone_never_means_to_start_anew(tmp_path):
    path = save(tmp_path, 4)
    (path / "trainer.pt").write_bytes(b"")
    for _ in range(2):  # the second start finds it set aside
        with pytest.raises(ValueError, match="no undamaged checkpoint"):
            checkpoint.newest(tmp_path)
    assert path.with_suffix(".damaged").exists()


def test_a_run_folder_to_resume_from_falls_back_aloud(tmp_path, capsys):
    """train.resume=RUN; nothing is renamed there, since the run may be another's."""
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    (newer / "trainer.pt").write_bytes(b"")
    assert checkpoint.sought(str(tmp_path)) == older
    assert "passed over: checkpoint" in capsys.readouterr().out
    assert newer.exists()
    with pytest.raises(ValueError, match=r"trainer\.pt should hold"):
        checkpoint.sought(str(newer))


def put_in_the_way(run: Path, what: str) -> None:
    folder = run / "checkpoints"
    if what == "checkpoints":
        shutil.rmtree(folder)
        folder.write_text("a file")
    elif what == "latest is a folder":
        (folder / "latest").unlink()
        (folder / "latest").mkdir()
    elif what == "latest is binary":
        (folder / "latest").write_bytes(bytes(range(256)))
    elif what == "a file for the step":
        checkpoint.place(run, 2).write_text("a file")
    else:
        shutil.rmtree(checkpoint.place(run, 1))
        checkpoint.place(run, 1).write_text("a file")


@pytest.mark.parametrize(
    ("what", "blocks"),
    [
        ("checkpoints", True),
        ("latest is a folder", True),
        ("latest is binary", False),
        ("a file for the step", True),
        ("a file for the last step", False),
    ],
)
def test_odd_things_in_the_way_are_words(tmp_path, what, blocks):
    """Reading them is no traceback; writing ends in words that do not blame the room on the disk, or just works."""
    save(tmp_path, 1)
    put_in_the_way(tmp_path, what)
    with contextlib.suppress(ValueError):
        checkpoint.find(tmp_path)
    with contextlib.suppress(ValueError):
        checkpoint.newest(tmp_path)
    if blocks:
        with pytest.raises(RunStopped, match=r"is in the way \((?!.*room)"):
            save(tmp_path, 2)
    else:
        path = save(tmp_path, 2)
        assert checkpoint.find(tmp_path) == path
        assert save(tmp_path, 3).exists()


def test_writing_beside_the_steps_gives_the_state_at_its_step(tmp_path):
    one = saver(tmp_path, 1)
    path = one.save(background=True)
    one.state.center += 5
    one.state.counters.step = 9
    one.settle()
    assert checkpoint.find(tmp_path) == path == one.last
    found = checkpoint.load_trainer(path, one.state.center.device)
    assert found["counters"]["step"] == 1
    assert found["center"].abs().sum() == 0


def test_a_failure_beside_the_steps_is_told_and_the_one_before_stays(tmp_path):
    before = save(tmp_path, 1)
    one = saver(tmp_path, 2)
    one.state.engine = FullDisk(OSError(28, "No space left on device"))
    one.save(background=True)
    one._thread.join()
    assert "No space left on device" in one.failure()
    with pytest.raises(RunStopped, match=r"step_00000002 could not be written: .*No space left"):
        one.settle()
    assert one.failure() is None
    assert checkpoint.find(tmp_path) == before


def test_keeps_every_so_many_steps_and_the_best(tmp_path):
    metric = "eval/retrieval/student/r1"
    one = saver(tmp_path, keep_checkpoints=2, keep_every=10, keep_best=metric)
    cadence = Cadence(one.config.train, one)
    for step, value in ((5, 0.1), (7, 0.9), (10, 0.2), (20, 0.9), (25, 0.3), (30, 0.4), (35, 0.5)):
        one.state.counters.step = step
        one.save()
        cadence.judge({metric: value})
    assert steps(tmp_path) == [7, 10, 20, 30, 35]
    assert retention.read_best(tmp_path / "checkpoints") == retention.Best("step_00000007", metric, 0.9)


def test_of_a_loss_the_lowest_is_the_best(tmp_path, capsys):
    metric = "eval/validation_loss/student/loss"
    one = saver(tmp_path, keep_checkpoints=1, keep_best=metric)
    cadence, folder = Cadence(one.config.train, one), tmp_path / "checkpoints"
    values = ((5, 3.0), (7, 2.0), (10, 2.5), (20, 2.0))
    for step, value in values:
        one.state.counters.step = step
        one.save()
        cadence.judge({metric: value})
    assert steps(tmp_path) == [7, 20]
    assert retention.read_best(folder) == retention.Best("step_00000007", metric, 2.0)
    (folder / "best").write_text("damaged")
    rows = [json.dumps({"step": step, metric: value}) + "\n" for step, value in values]
    (tmp_path / "metrics.jsonl").write_text("".join(rows))
    retention.restore_best(tmp_path, metric)
    assert retention.read_best(folder) == retention.Best("step_00000007", metric, 2.0)


def test_the_best_is_saved_where_no_checkpoint_was_due(tmp_path):
    metric = "eval/retrieval/student/r1"
    one = saver(tmp_path, 3, keep_best=metric, save_every=1000)
    Cadence(one.config.train, one).judge({metric: 0.5})
    assert steps(tmp_path) == [3]


def test_a_metric_that_is_not_there_is_said(tmp_path, capsys):
    one = saver(tmp_path, 3, keep_best="eval/retrieval/student/r7")
    Cadence(one.config.train, one).judge({"eval/retrieval/student/r1": 0.5})
    assert "r7 is not among the metrics measured: eval/retrieval/student/r1" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 10_000, '{"checkpoint": 1}', '{"value": "nan"}', "\0"])
def test_a_damaged_best_is_no_best(tmp_path, text):
    (tmp_path / "best").write_text(text)
    assert retention.read_best(tmp_path) is None


def test_minutes_count_from_checkpoint_to_checkpoint(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("silc.train.cadence.time.monotonic", lambda: now[0])
    one = saver(tmp_path, 1, save_every=0, save_minutes=2.0, log_every=5)
    cadence = Cadence(one.config.train, one)
    assert not cadence.due(5)
    now[0] += 130
    assert [step for step in range(1, 11) if cadence.due(step)] == [5, 10]
    cadence.save()
    assert not cadence.due(15)
    assert Cadence(replace(one.config.train, save_every=4, save_minutes=None), one).due(8)


def test_what_this_course_has_written_is_not_written_again(tmp_path):
    one = saver(tmp_path, 3)
    path = one.save()
    stamp = os.stat(path / "manifest.json").st_mtime_ns
    assert Cadence(one.config.train, one).saved(3) == path
    assert os.stat(path / "manifest.json").st_mtime_ns == stamp
    assert manifest.read(path).step == 3


def test_a_save_that_failed_beside_the_steps_is_tried_again_where_the_run_stops(tmp_path, capsys):
    """The disk may have room again; what is said of the first try is not lost."""
    one = saver(tmp_path, 2)
    engine, one.state.engine = one.state.engine, FullDisk(OSError(28, "No space left on device"))
    one.save(background=True)
    one._thread.join()
    one.state.engine = engine
    assert Cadence(one.config.train, one).saved(2) == checkpoint.find(tmp_path)
    assert "step_00000002 could not be written: [Errno 28] No space left" in capsys.readouterr().out


def test_what_a_user_calls_otherwise_is_left_alone(tmp_path):
    """A copy of a checkpoint beside it neither counts, nor is removed, nor is taken for the newest."""
    copies = ["step_00000001_keep", "step_1_0", "step_00000001.bak"]
    first = save(tmp_path, 1)
    for name in copies:
        shutil.copytree(first, first.with_name(name))
    for step in (2, 3, 4):
        save(tmp_path, step, keep=1)
    assert checkpoint.find(tmp_path) == checkpoint.place(tmp_path, 4) == checkpoint.newest(tmp_path)
    left = sorted(path.name for path in first.parent.iterdir() if path.is_dir())
    assert left == sorted([*copies, "step_00000004"])


def test_numbers_beyond_all_bounds_are_damage(tmp_path):
    path = save(tmp_path, 1)
    for number in ("Infinity", "1e400", "NaN"):
        (path / "manifest.json").write_text(f'{{"format": 3, "step": 1, "files": {{"trainer.pt": {number}}}}}')
        with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
            checkpoint.find(tmp_path)
    (tmp_path / "best").write_text(json.dumps({"checkpoint": "x" * 300, "metric": "m", "value": 1}))
    assert retention.read_best(tmp_path) is None


def test_a_run_that_is_left_waits_for_the_checkpoint_that_it_writes(tmp_path, monkeypatch):
    """Else another run could take the folder while this one still writes to it."""
    one = saver(tmp_path, 1)
    go_on = threading.Event()
    inner = manifest.write
    monkeypatch.setattr(manifest, "write", lambda *words: (go_on.wait(20), inner(*words)))
    trainer = Trainer.__new__(Trainer)
    trainer.cadence, trainer.log, trainer.world = Cadence(one.config.train, one), None, one.state.world
    path = one.save(background=True)
    threading.Timer(0.3, go_on.set).start()
    trainer.close()
    assert checkpoint.verify(path) == path


def test_a_draft_that_was_to_replace_a_checkpoint_of_its_step_is_taken(tmp_path):
    """After a run has gone back and saved a step again, and ended between the manifest and the renaming."""
    older = save(tmp_path, 3)
    shutil.copytree(older, tmp_path / "kept")
    newer = save(tmp_path, 3, teacher=StandIn())
    newer.rename(newer.with_suffix(".tmp"))
    (tmp_path / "kept").rename(older)
    assert checkpoint.newest(tmp_path) == older
    assert (older / "teacher.safetensors").exists()


def test_a_damaged_best_is_written_anew_from_the_log(tmp_path, capsys):
    metric = "eval/retrieval/student/r1"
    one = saver(tmp_path, keep_checkpoints=1, keep_best=metric)
    for step in (2, 4, 6):
        one.state.counters.step = step
        one.save()
        Cadence(one.config.train, one).judge({metric: 1 / step})
    rows = [{"step": step, metric: 1 / step} for step in (2, 4, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(["no row", *map(json.dumps, rows)]) + "\n")
    (tmp_path / "checkpoints" / "best").write_bytes(os.urandom(20))
    one.state.counters.step = 8
    one.save()
    assert steps(tmp_path) == [2, 8]
    assert "best is damaged: by metrics.jsonl it is step_00000002" in capsys.readouterr().out
    assert retention.read_best(tmp_path / "checkpoints") == retention.Best("step_00000002", metric, 0.5)


def test_a_checkpoint_without_a_manifest_never_means_to_start_anew(tmp_path):
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    (first / "manifest.json").unlink()
    (second / "trainer.pt").unlink()
    for said in (r"trainer\.pt is missing; .*step_00000001 has no manifest\.json", "set aside by an earlier start"):
        with pytest.raises(ValueError, match=rf"no undamaged checkpoint in .*{said}.*train\.resume=PATH"):
            checkpoint.newest(tmp_path)
