"""DeepSpeed's launcher as `silc` starts it: which words are its options, how a job ends, who gets the signals."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from silc import config_io
from silc.commands import evaluate, launcher, train
from silc.commands.main import COMMANDS, main
from silc.version import __version__

from .conftest import checkout, environment


def test_the_options_are_those_of_the_installed_launcher(monkeypatch):
    """Except those that are left out on purpose."""
    from deepspeed.launcher import runner

    seen = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda self, args=None: seen.append(self))
    runner.parse_args([])
    actions = [action for action in seen[0]._actions if action.option_strings and action.dest != "help"]
    theirs = {frozenset(action.option_strings): None if action.nargs == 0 else action.type for action in actions}
    for name in launcher.LEFT_OUT:
        del theirs[frozenset([name])]
    assert {frozenset(names): kind for names, kind in launcher.OPTIONS} == theirs


def test_options_are_told_from_words_wherever_they_stand(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("node1 slots=2\n")
    argv = ["a.b=1", "--num_gpus", "2", "--preset", "x", "-H", str(hosts), "--no_ssh", "c.d=--e", "--dry-run", "-q"]
    options, words = launcher.split("silc train", argv)
    assert options == [f"--hostfile={hosts}", "--num_gpus=2", "--no_ssh", "--quiet"]
    assert words == ["a.b=1", "--preset", "x", "c.d=--e", "--dry-run"]
    assert launcher.ranks(options) is None
    assert launcher.ranks(["--num_gpus=3"]) == 3
    assert launcher.ranks([]) is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--num_gpus", "x"], "invalid int value: 'x'"),
        (["--num_gpus", "0"], "--num_gpus 0: give at least 1"),
        (["--num_gpu", "2"], "unrecognized arguments: --num_gpu; did you mean --num_gpus?"),
        (["--steps", "5"], "--steps; configuration keys are section.key=value: train.steps=5"),
        (["--batch-size", "64"], "--batch-size; configuration keys are section.key=value: train.global_batch=64"),
        (["--seed"], "--seed; configuration keys are section.key=value: train.seed=VALUE"),
        (["--num_gpus"], "expected one argument"),
        (["--hostfile", "/nowhere/hosts"], "--hostfile /nowhere/hosts is not a file"),
        (["--module", "x.y=1"], "--module"),
        (["--num_gpus", "3", "train.global_batch=100"], "not divisible by the 3 ranks; take 99"),
    ],
)
def test_a_mistake_starts_no_launcher(monkeypatch, capsys, argv, said):
    monkeypatch.setattr(launcher, "run", lambda *_: pytest.fail("started"))
    with pytest.raises(SystemExit, match="2"):
        train.launch(argv)
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_deepspeed_is_told_of_a_machine_without_a_gpu_device(monkeypatch, tmp_path):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(launcher, "GPU_DEVICES", (str(tmp_path / "nvidia*"),))
    assert launcher.environment()["DS_ACCELERATOR"] == "cpu"
    (tmp_path / "nvidia0").touch()
    assert "DS_ACCELERATOR" not in launcher.environment()


def test_each_command_starts_its_module_where_it_should(monkeypatch):
    started = []
    monkeypatch.setattr(launcher, "run", lambda *call: started.append(call) or 75)
    assert train.launch(["--num_gpus", "2", "eval.picture=false"]) == 75
    assert evaluate.launch(["runs/x", "--num_gpus", "4", "--tasks=retrieval"]) == 75
    assert started == [
        ("silc train", "silc.commands.train", ["--num_gpus=2"], ["eval.contact_sheet=false"]),
        ("silc evaluate", "silc.commands.evaluate", ["--num_gpus=4"], ["runs/x", "--tasks=retrieval"]),
    ]
    started.clear()
    monkeypatch.setattr(evaluate, "main", lambda words: started.append(words) or 0)
    assert evaluate.launch(["runs/x"]) == 0
    monkeypatch.setenv("RANK", "0")  # another launcher has started this process
    monkeypatch.setattr(train, "main", lambda words: started.append(words) or 0)
    assert train.launch(["optim.lr=1"]) == 0
    assert started == [["runs/x"], ["optim.lr=1"]]


def test_the_launcher_adds_no_line_unless_asked():
    assert "--log_level=critical" in launcher.command("m", ["--num_gpus=2"], [])
    for option in ("--log_level=info", "--quiet"):
        assert "--log_level=critical" not in launcher.command("m", [option], [])
    words = launcher.command("m", [], ["a.b=1"])
    assert words[-3:] == ["--module", "m", "a.b=1"]


def test_a_job_of_one_machine_takes_a_free_port_unless_one_is_given(tmp_path, monkeypatch):
    (first, *rest) = launcher.with_port(["--num_gpus=2"])
    assert rest == ["--num_gpus=2"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", int(first.removeprefix("--master_port="))))
    for option in ("--master_port=29511", "--hostfile=hosts", "--num_nodes=2", "--node_rank=0", "--no_ssh"):
        assert launcher.with_port([option]) == [option]
    (tmp_path / "hosts").write_text("")
    monkeypatch.setattr(launcher, "HOSTFILE", tmp_path / "hosts")
    assert launcher.with_port([]) == []


def test_the_ranks_import_the_code_of_this_process(tmp_path):
    """Not a package of the same name in the working directory."""
    (tmp_path / "silc").mkdir()
    (tmp_path / "silc" / "__init__.py").write_text("raise SystemExit('another one')")
    env = launcher.environment()
    command = [sys.executable, "-m", "silc.version"]
    assert subprocess.run(command, cwd=tmp_path, env=env, check=False).returncode == 0
    assert env["PYTHONPATH"].split(os.pathsep)[:2] == checkout().split(os.pathsep)


LAUNCHER = """
import subprocess, sys
words = [sys.executable, "-c", sys.argv[1], "deepspeed.launcher.launch", sys.argv[2]]
sys.exit(subprocess.run(words).returncode)
"""
LOCAL_PART = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', sys.argv[2]]).returncode % 256)"
RANK = """
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(74))
pathlib.Path("ready").touch()
time.sleep(60)
"""
FRONT = """
import os, signal, sys
sys.path[:0] = {path!r}
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored where the tests run under nohup
from silc.commands import launcher
launcher.command = lambda *_: [sys.executable, "-c", *{words!r}]
sys.exit(launcher.run("silc train", "m", [], []))
"""


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 74), (signal.SIGHUP, 74), (signal.SIGKILL, 247)]
)
def test_signals_go_to_the_ranks_and_their_status_comes_back(tmp_path, signum, status):
    """SIGKILL stands for the kernel's: it hits a rank, and is explained."""
    rank = RANK if signum != signal.SIGKILL else "import os; os.kill(os.getpid(), 9)"
    words = [LAUNCHER, LOCAL_PART, rank]
    code = FRONT.format(path=checkout().split(os.pathsep), words=words)
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as front:
        if signum != signal.SIGKILL:
            ends = time.monotonic() + 60
            while not (tmp_path / "ready").exists():
                assert front.poll() is None
                assert time.monotonic() < ends
                time.sleep(0.05)
            front.send_signal(signum)
        _, err = front.communicate(timeout=60)
    assert front.returncode == status
    assert ("ended by SIGKILL; was memory short?" in err) == (signum == signal.SIGKILL)
    assert (err == "") == (status == 75 or signum != signal.SIGKILL)


def test_the_front_door_lists_its_commands(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, _, line) in COMMANDS.items():
        assert f"{name:10s}{line}" in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"silc {__version__}\n"
    for words, said in (([], "name a command"), (["trian"], "did you mean 'train'"), (["zzz"], "commands: train, ")):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert main(["keys"]) == 0
    assert "optim.lr (float" in capsys.readouterr().out


def test_an_interrupt_is_no_traceback(monkeypatch):
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "launch", interrupted)
    assert main(["train"]) == 130


def test_keys_are_chosen_by_a_part_of_their_name(capsys):
    assert main(["keys", "optim.", "batch"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [dotted for dotted, *_ in config_io.describe() if "optim." in dotted or "batch" in dotted]
    with pytest.raises(SystemExit, match="0"):
        main(["keys", "--help"])
    assert "silc keys optim" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["keys", "optimm.lr"])
    assert "no key contains 'optimm.lr'; did you mean 'optim.lr'?" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["keys", "export --help"])
def test_a_reader_that_leaves_ends_a_command_silently(words, tmp_path):
    """As in `silc keys | head -1`, with an output longer than a pipe holds, and one that is written at the end."""
    command = [sys.executable, "-m", "silc", *words.split()]
    read, write = os.pipe()
    os.close(read)
    env = environment(PYTHONPATH=checkout())
    env.pop("PYTHONUNBUFFERED", None)  # argparse passes over what fails to be written at once
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, env=env, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("name", ["train", "evaluate", "export", "claims"])
def test_a_command_says_how_it_is_used(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert f"silc {name} " in text
    assert Path(__file__).parents[2].joinpath("launch", f"{name}.py").is_file()
