"""`silc shards index`: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from silc.commands.main import run
from silc.commands.shards import common
from silc.data.shards import build as building
from silc.data.shards import indexing
from silc.data.shards.prepare import prepare
from silc.errors import StoreFailed
from tests.commands.interrupting import interrupted
from tests.data.shards import tars
from tests.data.shards.indexed import copies, energon, pairs, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index(capsys):
    """index(words): exit status, lines on stdout, lines on stderr."""

    def call(*words: object) -> tuple[int, list[str], list[str]]:
        try:
            status = run(["shards", "index", *map(str, words)])
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    return call


def test_a_folder(tmp_path, index):
    write(tmp_path / "set", [3, 40])
    path = tmp_path / "set" / "shards.manifest"
    line = f"43 samples in 2 shards (0.0 GB) in {path}"
    assert index(tmp_path / "set") == (0, [f"{line} (2 read)"], [])
    assert path.is_file()
    assert index(tmp_path / "set") == (0, [f"{line} (2 kept)"], [])
    assert index(tmp_path / "set", "--force", "--captions", "TXT") == (0, [f"{line} (2 read)"], [])
    assert (tmp_path / "set" / "00001.tar.cap").stat().st_size == 40 * 8
    assert index(tmp_path / "set", "--check") == (0, [f"{path} is whole: 43 samples in 2 shards"], [])
    assert index(f"{tmp_path}/set/{{00000..00001}}.tar") == (0, [f"{line} (2 kept)"], [])


def test_each_folder_gets_its_own_and_a_relative_name_is_as_good(tmp_path, index, monkeypatch):
    write(tmp_path / "a", [3])
    write(tmp_path / "b", [4])
    monkeypatch.chdir(tmp_path)
    status, lines, _ = index("a", "./b/")
    assert status == 0
    made = f"(0.0 GB) in {tmp_path}"
    assert lines == [
        f"3 samples in 1 shard {made}/a/shards.manifest (1 read)",
        f"4 samples in 1 shard {made}/b/shards.manifest (1 read)",
    ]
    status, lines, _ = index("a", "b", "--out", "both")
    assert (status, lines) == (0, [f"7 samples in 2 shards {made}/both/shards.manifest (2 read)"])


def test_some_shards_of_a_folder_need_a_place_of_their_own(tmp_path, index):
    write(tmp_path / "set", [1] * 12)
    status, lines, errors = index(tmp_path / "set" / "00003.tar")
    assert (status, lines) == (2, [])
    (error,) = errors
    assert error.startswith(f"silc shards index: {tmp_path}/set/ holds other shards too: ")
    assert "00008.tar and 3 more; index the whole folder, or give one for an index of" in error
    assert not list((tmp_path / "set").glob("*.idx"))
    assert index(tmp_path / "set" / "00003.tar", "--out", tmp_path / "index")[0] == 0


def test_what_is_wrong_with_an_index_is_said_and_nothing_written(tmp_path, index):
    write(tmp_path / "set", [3, 4, 5, 6, 7, 8])
    path = tmp_path / "set" / "shards.manifest"
    status, lines, _ = index(tmp_path / "set", "--check")
    assert status == 1
    assert lines[0] == f"{path}: there is none"
    assert lines[1].startswith("6 shards not in the index: ")
    assert not path.exists()
    index(tmp_path / "set")
    assert (
        index(tmp_path / "set", "--check", "--captions", "txt")[1][0]
        == f"{path}: it holds no hashes of the txt captions"
    )

    tars.append(tmp_path / "set" / "00000.tar", [("z.jpg", b"j" * 20000)])
    os.utime(tmp_path / "set" / "00001.tar", ns=(5, 5))
    os.truncate(tmp_path / "set" / "00002.tar.idx", 16)
    (tmp_path / "set" / "00003.tar.idx").unlink()
    (tmp_path / "set" / "00004.tar").unlink()
    write(tmp_path / "set", [2], first=9)
    before = {file: file.read_bytes() for file in (tmp_path / "set").iterdir()}
    status, lines, _ = index(tmp_path / "set", "--check")
    assert status == 1
    text = "\n".join(lines)
    for says in (
        rf"1 shard not in the index: {tmp_path}/set/00009.tar",
        rf"1 shard in the index, but not there or not named: {tmp_path}/set/00004.tar",
        r"2 shards changed since the index was made: ",
        r"00001.tar (it was changed)",
        r"2 shards with a damaged index: ",
        r"00002.tar (1 offsets for 5 samples)",
        r"00003.tar.idx does not exist",
        r"`silc shards index` with the same words, without --check, mends the index",
    ):
        assert says in text
    assert {file: file.read_bytes() for file in (tmp_path / "set").iterdir()} == before
    status, lines, _ = index(tmp_path / "set")
    assert status == 0
    assert lines[0] == "1 shard of the earlier index left the list: 00004.tar"
    assert lines[-1].endswith("(1 compared, 1 kept, 4 read)")
    assert index(tmp_path / "set", "--check")[0] == 0


def test_a_sidecar_that_does_not_fit_is_found(tmp_path, index):
    write(tmp_path / "set", [300, 4])
    index(tmp_path / "set")
    path = tmp_path / "set" / "00000.tar.idx"
    offsets = path.read_bytes()
    path.write_bytes(b"".join((512 * i).to_bytes(8, "little") for i in range(301)))
    status, lines, _ = index(tmp_path / "set", "--check")
    assert status == 1
    assert lines[0].endswith("set/00000.tar (a sample is not where the index says)")
    index(tmp_path / "set", "--force")
    assert path.read_bytes() == offsets


def test_a_shard_that_is_no_tar(tmp_path, index):
    write(tmp_path / "set", [3, 4])
    (tmp_path / "set" / "00000.tar").write_bytes(b"\x1f\x8b" + b"z" * 5000)
    status, lines, _ = index(tmp_path / "set")
    assert status == 1
    assert lines[0].startswith("1 shard cannot be indexed: 00000.tar: shard ")
    assert lines[1] == "no manifest is written: repair or remove these shards, or leave them out with --skip-bad"
    status, lines, _ = index(tmp_path / "set", "--skip-bad")
    assert status == 0
    assert lines[0].startswith("1 shard cannot be indexed: 00000.tar: ")
    assert lines[1].startswith("4 samples in 2 shards (0.0 GB) in ")
    status, lines, _ = index(tmp_path / "set", "--check")
    assert status == 0
    assert lines[0].startswith(f"1 shard left out when the index was made: {tmp_path}/set/00000.tar (")


def test_lost_samples_and_damage_are_told_in_few_words(tmp_path, index):
    write(tmp_path / "set", [9] * 30)
    for number in range(30):
        path = tmp_path / "set" / f"{number:05}.tar"
        tars.append(path, [(f"00000{i}.{end}", b"new") for i in range(1 + (number == 7)) for end in ("jpg", "txt")])
        with tarfile.open(path) as tar:
            tar.getmembers()
            os.truncate(path, tar.offset)
    status, lines, _ = index(tmp_path / "set")
    assert status == 0
    assert sum(line.startswith("note: ") for line in lines) == 9
    assert lines[0].startswith("note: 00000.tar ")
    assert lines[8] == "note: and 22 more such notes"
    (lost,) = (line for line in lines if line.startswith("warning: "))
    assert lost.startswith("warning: 31 samples cannot be used: 31 key comes twice; in 00007.tar (2 key comes twice), ")
    assert lost.endswith(" and 22 more")
    assert max(map(len, lines)) < 1000


def test_counts_that_others_left(tmp_path, index):
    write(tmp_path / "set", [3, 4])
    (tmp_path / "set" / "sizes.json").write_text(json.dumps({"00000.tar": 3, "00001.tar": "5", "elsewhere.tar": 7}))
    status, lines, _ = index(tmp_path / "set")
    assert (status, lines[0]) == (0, "note: 00001.tar has 5 samples by sizes.json, 4 were found")
    (tmp_path / "set" / ".nv-meta").mkdir()
    (tmp_path / "set" / ".nv-meta" / ".info.json").write_text(json.dumps({"shard_counts": {"00000.tar": 9}}))
    status, lines, _ = index(tmp_path / "set", "--force")
    assert lines[0] == "note: 00000.tar has 9 samples by .nv-meta/.info.json, 3 were found"


def test_extensions_of_images(tmp_path, index):
    (tmp_path / "set").mkdir()
    entries = [(f"IMG.{i}.{end}", b"x") for i in range(9) for end in ("jp2", "txt")]
    (tmp_path / "set" / "00000.tar").write_bytes(tars.pack(entries))
    assert index(tmp_path / "set")[1][0].startswith("1 sample in 1 shard")
    assert index(tmp_path / "set", "--images", "jpg,JP2")[1][0].startswith(
        "warning: 9 samples cannot be used: 9 dot in"
    )


def test_what_megatron_energon_left(tmp_path, index, monkeypatch):
    for path in map(Path, write(tmp_path / "set", [3, 4])):
        Path(f"{path}.idx").write_bytes(energon(path))
    monkeypatch.setattr(indexing, "scan", None)
    status, lines, _ = index(tmp_path / "set", "--energon")
    assert (status, lines[0].rpartition(" (")[2]) == (0, "2 taken)")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the following arguments are required: SHARDS"),
        (["{folder}/nothing"], "SHARDS: no such file or folder"),
        (["{folder}/empty"], "holds no .tar"),
        (["{folder}/set/shards.manifest"], "is an index; name the shards"),
        (["{folder}/set", "--jobs", "0"], "argument --jobs: '0': give a number of processes, at least 1"),
        (["{folder}/set", "--cautions", "txt"], "unrecognized arguments: --cautions txt; did you mean --captions?"),
        (["{folder}/set", "--out", "{folder}/set/00000.tar"], "cannot be written to (File exists); give another"),
        (["https://host/{{0..3}}.tar"], "https://host/ is on a web server, where nothing can be written"),
        (["https://me:secret@host/0.tar"], "holds a user name or password"),
        (["{folder}/set", "{folder}/set/00000.tar"], "is named twice"),
    ],
)
def test_mistakes_end_with_one_line_and_status_2(tmp_path, index, words, says):
    write(tmp_path / "set", [1])
    index(tmp_path / "set")
    (tmp_path / "empty").mkdir()
    status, lines, errors = index(*(word.format(folder=tmp_path) for word in words))
    assert (status, lines) == (2, [])
    (error,) = errors
    assert error.startswith("silc shards index: ")
    assert says in error
    assert "secret" not in error


def test_the_command_needs_a_subcommand(capsys):
    with pytest.raises(SystemExit) as ended:
        run(["shards"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "silc shards: the following arguments are required: COMMAND\n"
    with pytest.raises(SystemExit) as ended:
        run(["shards", "index", "--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--skip-bad" in printed
    assert "img2dataset" in printed


def test_a_disk_that_fails_ends_with_status_1(tmp_path, index, monkeypatch):
    write(tmp_path / "set", [1] * 20)
    monkeypatch.setattr(building, "ALONE", 100)

    def stat(address):
        raise StoreFailed("/data could not be looked at")

    monkeypatch.setattr(indexing, "stat", stat)
    status, lines, errors = index(tmp_path / "set")
    assert (status, lines) == (1, [])
    (error,) = errors
    assert error.startswith("silc shards index: /data could not be looked at; what is done is kept: start again")


def test_plain_lines_tell_how_far_it_is_where_there_is_no_terminal(tmp_path, index, monkeypatch):
    write(tmp_path / "set", [1] * 5)
    monkeypatch.setattr(common, "PAUSE", -1.0)
    _, _, errors = index(tmp_path / "set")
    assert [line.partition(",")[0] for line in errors] == [f"{i} of 5 shards" for i in range(2, 6)]
    assert errors[-1].startswith("5 of 5 shards, 5 samples, 0.0 GB, 00:00 left")


def test_an_interruption_leaves_no_process_and_the_same_command_goes_on(tmp_path):
    folder = tmp_path / "set"
    copies(folder, 150, 1500)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/kernels"}
    command = [sys.executable, "-m", "silc", "shards", "index", str(folder), "--jobs", "2"]
    journal = folder / building.JOURNAL
    ended = interrupted(command, environment, lambda: journal.exists() and journal.read_text().count("\n") > 4)
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[-1] == "silc shards index: interrupted; the same command goes on from here"
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    kept = int(done.stdout.rpartition("(")[2].split()[0])
    assert 4 <= kept < 150
    assert done.stdout.endswith(f"({kept} kept, {150 - kept} read)\n")
    assert [file.name for file in folder.glob(".*") if not file.name.endswith(".part")] == []


def test_the_manifest_that_a_run_makes_is_the_command_s(tmp_path, index):
    write(tmp_path / "set", [3, 4])
    prepare([str(tmp_path / "set")], caption="txt", images=["jpg"], max_lost=0, say=lambda _: None)
    status, lines, _ = index(tmp_path / "set")
    assert (status, lines[0].rpartition(" (")[2]) == (0, "2 kept)")
    assert (tmp_path / "set" / "00001.tar").read_bytes() == tars.pack(pairs(4, seed=100))
