"""`silc shards check`: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from silc.commands.main import run
from silc.commands.shards import common
from tests.commands.interrupting import interrupted
from tests.data.survey.sets import encoded, pair, picture, whole, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SILC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def check(capsys):
    """check(words): exit status, lines on stdout, lines on stderr."""

    def call(*words: object) -> tuple[int, list[str], list[str]]:
        try:
            status = run(["shards", "check", "--jobs", "1", *map(str, words)])
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return status, printed.out.splitlines(), printed.err.splitlines()

    return call


def test_a_set_in_order(tmp_path, check):
    write(tmp_path / "set", [whole(3), whole(2, seed=5)])
    status, lines, errors = check(tmp_path / "set")
    assert (status, errors) == (0, [])
    assert lines == [
        "5 of 5 samples in 2 shards (0.0 GB) can be trained on, with 5 captions",
        "no image comes twice (byte for byte)",
        "no pair comes twice (byte for byte)",
        "no caption comes twice (but for case and white space)",
        "images: JPEG 5; RGB 5",
    ]


def test_damage_is_printed_with_keys_and_listed_in_files(tmp_path, check):
    bad = [entry for i in range(7) for entry in pair(f"bad{i}", b"x", "y")]
    write(tmp_path / "set", [[*whole(3), *bad], [*pair("a\tb\\c", encoded(picture(1)), ""), ("\udcff.txt", b"z")]])
    status, lines, _ = check(tmp_path / "set", "--json", tmp_path / "check.json", "--bad", tmp_path / "bad.tsv")
    assert status == 1
    assert lines[0].startswith("3 of 12 samples in 2 shards ")
    names = ", ".join(f"00000/bad{i}" for i in range(5))
    assert lines[1:4] == [
        f"7 x undecodable image: {names}, ...",
        "1 x empty caption: 00001/a\\tb\\\\c",
        "1 x no image: 00001/\\udcff",
    ]
    shards = [str(tmp_path / "set" / f"0000{n}.tar") for n in (0, 1)]
    rows = [line.split("\t") for line in (tmp_path / "bad.tsv").read_text().splitlines()]
    assert rows == [
        *([shards[0], f"bad{i}", "undecodable image"] for i in range(7)),
        [shards[1], "a\\tb\\\\c", "empty caption"],
        [shards[1], "\\udcff", "no image"],
    ]
    report = json.loads((tmp_path / "check.json").read_text())
    assert (report["sound"], report["samples"], report["whole"], report["damaged"]) == (False, 12, 3, 9)
    assert report["faults"]["undecodable image"]["samples"] == 7


def test_keys_of_the_configuration_and_a_preset(tmp_path, check):
    entries = [("a.json", b'{"text": "one"}'), ("a.pic", encoded(picture(1)))]
    write(tmp_path / "set", [entries])
    words = ["data.caption_key=json:text", "data.image_keys=[pic]"]
    assert check(tmp_path / "set", *words)[0] == 0
    assert check(tmp_path / "set", *words, "data.max_image_pixels=9")[1][1] == "1 x too many pixels: 00000/a"
    (tmp_path / "mine.yaml").write_text(
        f"data: {{shards: ['{tmp_path}/set'], caption_key: 'json:text', image_keys: [pic]}}\n"
    )
    status, lines, _ = check("--preset", tmp_path / "mine.yaml")
    assert (status, lines[0]) == (0, "1 of 1 sample in 1 shard (0.0 GB) can be trained on, with 1 caption")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no shards given: name folders or tar files, or a preset with data.shards"),
        (["nowhere"], "SHARDS: no such file or folder 'nowhere'"),
        (["empty"], "SHARDS: folder 'empty' holds no .tar"),
        (["set", "set"], "is named twice"),
        (["set", "data.caption_kye=txt"], "data.caption_kye"),
        (["set", "--jobs", "0"], "'0': give a number of processes, at least 1"),
        (["set", "--jsno", "x"], "--json"),
        (["set", "--json", "nowhere/x.json"], "nowhere/x.json cannot be written: No such file or directory"),
        (["s3://key:secret@bucket/x.tar"], "holds a user name or password"),
    ],
)
def test_a_mistake_is_a_line_before_any_work(tmp_path, check, monkeypatch, words, says):
    write(tmp_path / "set", [whole(1)])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    status, lines, errors = check(*words)
    assert (status, lines) == (2, [])
    assert says in errors[-1]
    assert errors[0].startswith("silc shards check: ")
    assert "secret" not in errors[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "set"]


def test_an_earlier_report_stays_where_the_check_stops(tmp_path, check, monkeypatch):
    write(tmp_path / "set", [whole(1)])
    (tmp_path / "bad.tsv").write_text("earlier\n")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(common.Bar, "show", stop)
    status, _, errors = check(tmp_path / "set", "--bad", tmp_path / "bad.tsv")
    assert (status, errors) == (130, ["silc shards check: interrupted; the same command goes on from here"])
    assert (tmp_path / "bad.tsv").read_text() == "earlier\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tsv", "cache", "set"]


def test_a_full_disk_is_said_in_a_line(tmp_path, check, monkeypatch):
    from silc.data.survey import journal

    write(tmp_path / "set", [whole(1)])
    original = journal.Journal.__init__

    def full(self: journal.Journal, *arguments: object) -> None:
        original(self, *arguments)
        self._hashes[0] = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115 - the journal closes it

    monkeypatch.setattr(journal.Journal, "__init__", full)
    status, _, errors = check(tmp_path / "set")
    assert status == 1
    assert errors[-1].endswith(
        "No space left on device; make room there, or set SILC_CACHE to another folder, and start again"
    )


def test_an_interruption_leaves_no_process_and_the_same_command_goes_on(tmp_path):
    data = [entry for i in range(60) for entry in pair(f"{i:04}", encoded(picture(i, (640, 480))), f"thing {i}")]
    write(tmp_path / "set", [data] * 24)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/kernels", "SILC_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "silc", "shards", "check", str(tmp_path / "set"), "--jobs", "2"]

    def begun() -> bool:
        return any(path.read_bytes().count(b"\n") > 2 for path in tmp_path.glob("cache/shards/*/found/journal"))

    ended = interrupted(command, environment, begun)
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[-1] == "silc shards check: interrupted; the same command goes on from here"
    again = subprocess.run(command, env=environment, cwd=ROOT, text=True, capture_output=True, timeout=400, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.startswith("going on after ")
    lines = again.stdout.splitlines()
    assert lines[0].startswith("1,440 of 1,440 samples in 24 shards ")
    assert lines[1].startswith("1,380 of 1,440 images repeat an earlier one (byte for byte); 60 different")
