"""Export folders: replaced whole or not at all, files of others never lost, interruptions put right."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.interchange.write import replace
from silc.interchange.write.folder import files, kind_of, own_files, renew_sum, write_card, write_sums
from silc.interchange.write.replace import recover, replacing_folder


def fill(draft: Path, *names: str) -> None:
    """An export of these files."""
    for name in ("open_clip_config.json", *names):
        (draft / name).parent.mkdir(exist_ok=True)
        (draft / name).write_text("exported")
    write_card(draft, "card")
    write_sums(draft)


def put(out: Path, *names: str) -> list[str]:
    """Write an export there; the lines that are said."""
    said: list[str] = []
    with replacing_folder(out, said.append, keep_others=True) as draft:
        fill(draft, *names)
    return said


def test_nothing_of_a_user_is_lost(tmp_path):
    """More files than any limit, empty folders, links, folders beside those of the export."""
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    (outside / "far").write_text("far")
    put(out, "vision/config.json", "gone.json")
    (out / "many" / "inner").mkdir(parents=True)
    for n in range(1500):
        (out / "many" / str(n)).write_text(str(n))
    (out / "empty" / "inner").mkdir(parents=True)
    (out / "link").symlink_to(outside)
    (out / "broken").symlink_to("nowhere")
    (out / "vision" / "mine.txt").write_text("mine")
    inode = (out / "many" / "7").stat().st_ino
    assert put(out) == []
    assert len(list((out / "many").iterdir())) == 1501
    assert (out / "many" / "7").stat().st_ino == inode, "renamed, not copied"
    assert (out / "empty" / "inner").is_dir()
    assert (out / "link").readlink() == outside
    assert (outside / "far").read_text() == "far"
    assert (out / "broken").is_symlink()
    assert [path.name for path in (out / "vision").iterdir()] == ["mine.txt"]
    assert not (out / "gone.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "outside"]


def test_a_users_file_of_an_exports_name_is_kept_beside_it(tmp_path):
    out = tmp_path / "out"
    put(out)
    (out / "new.json").write_text("mine")
    (out / "new.json.old").write_text("mine too")
    (said,) = put(out, "new.json")
    assert said == f"{out / 'new.json'} was not written by an export; it is kept as new.json.old1"
    found = {name: (out / name).read_text() for name in ("new.json", "new.json.old", "new.json.old1")}
    assert found == {"new.json": "exported", "new.json.old": "mine too", "new.json.old1": "mine"}


def test_sums_that_name_files_elsewhere_remove_nothing(tmp_path):
    out, secret = tmp_path / "out", tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("secret")
    put(out)
    (out / "link").symlink_to(tmp_path / "folder")
    with (out / "SHA256SUMS").open("a") as file:
        file.writelines(f"{'0' * 64}  {name}\n" for name in ("../secret", secret, "a/../../secret", "link/file", "."))
    put(out)
    assert secret.read_text() == "secret"
    assert (tmp_path / "folder" / "file").read_text() == "secret"
    assert (out / "link").is_symlink()


@pytest.mark.parametrize("mark", ["", "<!-- silc -->", "said: <!-- exported by silc 1.0 -->"])
def test_sums_of_others_make_no_export(tmp_path, mark):
    put(tmp_path / "out")
    assert kind_of(tmp_path / "out") == "open_clip"
    (tmp_path / "out" / "README.md").write_text(mark)
    assert own_files(tmp_path / "out") == frozenset()
    assert kind_of(tmp_path / "out") is None


def test_the_mark_stays_where_a_card_is_written_on(tmp_path):
    put(tmp_path / "out")
    with (tmp_path / "out" / "README.md").open("a") as file:
        file.write("My notes.\n")
    assert kind_of(tmp_path / "out") == "open_clip"


def test_sums_are_of_an_exports_own_files(tmp_path):
    put(tmp_path, "b.json")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "b.json").write_text("damaged")
    write_card(tmp_path, "another")
    renew_sum(tmp_path, "README.md")
    found = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == ["README.md: OK", "b.json: FAILED", "open_clip_config.json: OK"]


def killed_at(n: int, out: Path, *names: str) -> bool:
    """Write an export in a process that is killed by its n-th call of a function that changes names."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1] == signal.SIGKILL
    calls = itertools.count(1)

    def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            if next(calls) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(*words, **named)

        return call

    try:
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        put(out, *names)
        os._exit(0)
    finally:
        os._exit(1)


def test_after_a_kill_anywhere_the_next_export_has_all(tmp_path):
    """Of the earlier export or the new one, whole, and of the user."""
    for n in range(1, 100):
        place = tmp_path / str(n)
        out = place / "out"
        put(out, "vision/config.json", "b.json")
        (out / "mine").mkdir()
        (out / "mine" / "notes").write_text("mine")
        (out / "vision" / "mine").write_text("mine")
        if not killed_at(n, out, "c.json"):
            break
        said: list[str] = []
        recover(out, said.append)
        assert [path.name for path in place.iterdir()] == ["out"]
        subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, check=True)
        assert (out / "mine" / "notes").read_text() == (out / "vision" / "mine").read_text() == "mine"
        assert (out / "b.json").exists() != (out / "c.json").exists() or any("b.json" in line for line in said)
    assert n > 10


def test_what_another_process_writes_is_left_alone(tmp_path):
    out = tmp_path / "out"
    with replacing_folder(out, print) as draft:
        fill(draft)
        recover(out, pytest.fail)
        assert draft.is_dir()
    assert kind_of(out) == "open_clip"


def test_names_that_only_look_alike_are_left_alone(tmp_path):
    names = [".out.0123456.part", ".out.01234567.parts", ".xout.01234567.part", ".out.01234567.part"]
    for name in names[:3]:
        (tmp_path / name).mkdir()
    (tmp_path / names[3]).write_text("a file")
    recover(tmp_path / "out", pytest.fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_all_folders_of_an_export_are_brought_to_the_disk(tmp_path, monkeypatch):
    synced: list[str] = []
    monkeypatch.setattr(replace, "sync_folder", lambda folder: synced.append(folder.name))
    put(tmp_path / "out", "vision/config.json")
    assert synced[1] == "vision"
    assert synced[0].endswith(".part")


def test_files_that_cannot_be_brought_are_said_and_stay(tmp_path, monkeypatch):
    out = tmp_path / "out"
    put(out)
    (out / "mine").write_text("mine")
    inner = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "mine":
            raise OSError(5, "Input/output error")
        return inner(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    (said,) = put(out)
    assert "holds files that were in" in said
    monkeypatch.undo()
    recover(out, pytest.fail)
    assert (out / "mine").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


NAMES = st.sampled_from(["a", "b", "vision", "README.md", "a/b", "vision/config.json", "vision/x", "c.json"])


@settings(max_examples=60, deadline=None)
@given(first=st.sets(NAMES), mine=st.sets(NAMES), second=st.sets(NAMES))
def test_any_files_of_a_user_survive_any_export(tmp_path_factory, first, mine, second):
    out = tmp_path_factory.mktemp("any") / "out"

    def fit(names: set[str]) -> list[str]:
        return sorted(name for name in names if not any(other.startswith(name + "/") for other in names))

    put(out, *[name for name in fit(first) if name != "README.md"])
    added = []
    for name in fit(mine):
        path = out / name
        if path.exists() or any(parent.is_file() for parent in path.parents):
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"mine {name}")
        added.append(f"mine {name}")
    put(out, *[name for name in fit(second) if name != "README.md"])
    texts = [(out / name).read_text() for name in files(out)]
    assert sorted(text for text in texts if text.startswith("mine")) == sorted(added)
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, check=True)
