"""What the launcher of several machines needs is checked before it starts; words arrive there as they were given."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silc import rendezvous
from silc.commands import launcher, several_nodes, train


@pytest.fixture
def hosts(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# two machines\nnode1 slots=2\nnode2   slots=4 # more\n\n")
    return file


@pytest.fixture
def bin_only(tmp_path, monkeypatch):
    """A function that makes programs of these names, each a shell script, which alone can be found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(**programs: str) -> None:
        for name, text in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    return make


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({}, "ssh and pdsh cannot be found, .*apt install openssh-client pdsh"),
        ({"ssh": ""}, "pdsh cannot be found, .*apt install pdsh"),
        (
            {"ssh": 'echo "$*: shut" >&2; exit 255', "pdsh": ""},
            "node1 and 1 more machine of the hostfile .* node1 true: shut;",
        ),
        (
            {"ssh": 'case "$*" in *node2*) exit 3;; esac', "pdsh": ""},
            "node2 of the hostfile cannot be entered by ssh: status 3",
        ),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(programs, said, hosts, bin_only, monkeypatch, capsys):
    bin_only(**programs)
    monkeypatch.setattr(launcher, "run", lambda *_: pytest.fail("started"))
    with pytest.raises(SystemExit, match="2"):
        train.launch(["--hostfile", str(hosts)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(said, lines[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node1\n", "line 1: 'node1' is not NAME slots=N"),
        ("node1 slots=2\nnode1 slots=3\n", "line 2: node1 stands in line 1 already"),
        ("# nothing\n", "names no machine"),
    ],
)
def test_a_hostfile_that_the_launcher_would_not_take_is_refused(text, said, tmp_path, capsys):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        train.launch(["--hostfile", str(tmp_path / "hosts")])
    assert said in capsys.readouterr().err


def test_the_machines_that_are_chosen_are_those_of_the_launcher(hosts):
    from deepspeed.launcher import runner

    pool = runner.fetch_hostfile(str(hosts))
    assert several_nodes.read_hosts(hosts) == list(pool)
    for include, exclude in (("node2", ""), ("node2:0,2", ""), ("node1@node2:1", ""), ("", "node1"), ("", "node2:0")):
        theirs = runner.parse_inclusion_exclusion(dict(pool), include, exclude)
        given = {"--include": include, "--exclude": exclude}
        assert several_nodes.chosen(several_nodes.read_hosts(hosts), given) == list(theirs)
    assert several_nodes.chosen(["a", "b", "c"], {"--num_nodes": "2"}) == ["a", "b"]


def test_ranks_elsewhere_get_threads_and_cards_and_a_user_s_own_variables(hosts, bin_only, monkeypatch, tmp_path):
    bin_only(ssh="", pdsh="")
    for name, value in {
        "GLOO_SOCKET_IFNAME": "eth1",
        "OMP_NUM_THREADS": "3",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DS_ENV_FILE", raising=False)
    monkeypatch.delenv("PDSH_SSH_ARGS_APPEND", raising=False)
    (tmp_path / ".deepspeed_env").write_text("OMP_NUM_THREADS=5\nNCCL_DEBUG=INFO")
    with several_nodes.reached("silc train", [f"--hostfile={hosts}"], ["a={1..2}"]) as (words, door):
        from deepspeed.launcher import runner

        path = os.environ["DS_ENV_FILE"]
        lines = Path(path).read_text().splitlines()
        assert [runner.os.path.join(folder, path) for folder in runner.DEEPSPEED_ENVIRONMENT_PATHS] == [path] * 2
        assert "ServerAliveInterval" in os.environ["PDSH_SSH_ARGS_APPEND"]
    assert {"GLOO_SOCKET_IFNAME=eth1", "OMP_NUM_THREADS=3"} <= set(lines)
    assert lines[-2:] == ["OMP_NUM_THREADS=5", "NCCL_DEBUG=INFO"]  # last, so that they win
    assert "secret" not in "".join(lines)
    assert words == ["'a={1..2}'"]
    assert door is not None
    for options in ([f"--hostfile={hosts}", "--no_ssh"], [f"--hostfile={hosts}", "--include=node2"], []):
        with several_nodes.reached("silc train", options, ["a={1..2}"]) as handed:
            assert handed == (["a={1..2}"], None)


@given(words=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), max_size=4))
def test_words_arrive_over_pdsh_as_they_were_given(words):
    """Through DeepSpeed's own command line, as pdsh and the shell at the other end read it."""
    from deepspeed.launcher.multinode_runner import PDSHRunner

    options = {"launcher_args": "", "master_addr": "a", "master_port": 1, "ssh_port": None, "venv_script": None}
    switches = dict.fromkeys(("no_python", "module", "no_local_rank", "save_pid", "enable_each_rank_log"), None)
    handed = [several_nodes._over_pdsh(word) for word in words]
    args = SimpleNamespace(user_script="train", user_args=handed, **options, **switches)
    command, _, _ = PDSHRunner(args, "").get_cmd({}, {"node1": [0]})
    end = command[command.index("train") + 1 :]
    line = " ".join(end).replace("%%", "\0").replace("%", "?").replace("\0", "%")
    done = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    got = done.stdout.decode().split("\0")[:-1]
    assert got == words or (not words and got == [""])


def test_a_task_of_several_takes_no_option_of_the_launcher(monkeypatch, capsys):
    for name, value in {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.setenv(name, "2")
    for name in rendezvous.NAMES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(launcher, "run", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(train, "main", lambda words: words)
    assert train.launch(["optim.lr=1"]) == ["optim.lr=1"]
    for name in rendezvous.NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="2"):
        train.launch(["--num_gpus", "2", "optim.lr=1"])
    assert "one of 2 tasks, which are the ranks of the job, and --num_gpus would start" in capsys.readouterr().err


def test_a_signal_reaches_the_ranks_of_a_machine_and_nothing_else(tmp_path):
    """By what ssh runs there; here sh stands for it. A rank's child has the rank's environment, and gets nothing."""
    code = "import os, signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); os.fork(); "
    code += "open(str(os.getpid()), 'w').close(); time.sleep(60)"
    env = os.environ | {"SILC_JOB": "5eed", "LOCAL_RANK": "0"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env | more) for more in ({}, {"SILC_JOB": "6"})
    ]
    try:
        ends = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 4:
            assert time.monotonic() < ends
            time.sleep(0.05)
        assert several_nodes.Door(["sh", "-c"], "5eed")(signal.SIGUSR1)
        assert ranks[0].wait(timeout=60) == 75
        children = {int(path.name) for path in tmp_path.iterdir()} - {rank.pid for rank in ranks}
        assert all(psutil.pid_exists(pid) for pid in children)
        assert ranks[1].poll() is None
        assert not several_nodes.Door(["sh", "-c"], "7")(signal.SIGUSR1)
    finally:
        for path in tmp_path.iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGKILL)
