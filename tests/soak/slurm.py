"""launch/slurm.sh under a SLURM of two machines: submitted, stopped, queued again, resumed, finished.

    python -m tests.soak.slurm [--quick]

The machines are namespaces of this one (root is needed), with munged, slurmctld and slurmd of a configuration of
their own. A job of two nodes with two ranks each is asked to stop by USR1, is preempted, and nears its time limit; each
time it saves, is queued again by itself, and goes on. One that is cancelled saves and does not come back. --quick: a
job with a rank on each, stopped once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.commands.conftest import ROOT, write_data
from tests.machines import Machine, machines, missing
from tests.soak.common import Table, finish

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
LIMIT = 240  # seconds for anything to happen
CONF = """
ClusterName=soak
SlurmctldHost=node1
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SchedulerParameters=requeue_delay=1,batch_sched_delay=0,sched_min_interval=0
SchedulerTimeSlice=5
JobRequeue=1
KillWait=30
ReturnToService=2
SlurmdTimeout=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-2] CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes=node[1-2] Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=node[1-2] PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """SLURM on two machines. folder: for its files and the jobs'. tasks: of a job on each machine."""

    def __init__(self, folder: Path, pair: tuple[Machine, Machine], tasks: int) -> None:
        self.folder, self.pair, self.tasks = folder, pair, tasks
        (folder / "state").mkdir()
        self.conf = folder / "slurm.conf"
        self.conf.write_text(CONF.format(folder=folder))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
        for machine in pair:
            munge = f"--key-file={key} --log-file=/run/munge.log --pid-file=/run/munge.pid --seed-file=/run/munge.seed"
            machine.do("sh", "-ec", f"mkdir -m 755 /run/munge; munged --force {munge}")
        self.do("slurmctld")
        for machine in pair:
            (folder / f"spool-{machine.name}").mkdir()
            machine.do("env", f"SLURM_CONF={self.conf}", "slurmd", "-N", machine.name)

    def do(self, *words: str) -> str:
        """A command of SLURM's on node1."""
        return self.pair[0].do("env", f"SLURM_CONF={self.conf}", *words)

    def ready(self) -> None:
        """Wait until both machines take jobs."""
        wait(
            lambda: self.do("sinfo", "--noheader", "--partition=low", "--format=%D %t").strip() == "2 idle",
            "idle nodes",
        )

    def show(self, job: str, key: str) -> str:
        """A field of `scontrol show job`."""
        found = re.search(rf"\b{key}=(\S+)", self.do("scontrol", "show", "job", job))
        return found[1] if found else ""

    def log(self, job: str) -> str:
        """What a job printed, all its parts."""
        path = self.folder / f"job-{job}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def submit(self, *words: str) -> str:
        """The number of a job of two nodes that runs launch/slurm.sh with these words."""
        options = [
            "--parsable",
            "--nodes=2",
            f"--ntasks-per-node={self.tasks}",
            "--cpus-per-task=1",
            "--gpus-per-node=0",
        ]
        options += ["--signal=USR1@60", f"--output={self.folder}/job-%j.log", "--time=10"]
        return self.do("env", f"--chdir={ROOT}", "sbatch", *options, "launch/slurm.sh", *words).strip()


def wait(until: Callable[[], object], what: str) -> None:
    """Until it is true. Raises TimeoutError."""
    ends = time.monotonic() + LIMIT
    while not until():
        if time.monotonic() > ends:
            raise TimeoutError(f"no {what} in {LIMIT} s")
        time.sleep(0.5)


def steps(out: Path) -> int:
    """Of the newest checkpoint; 0 without one."""
    found = out.glob("checkpoints/step_*/manifest.json")
    return max((json.loads(path.read_text())["step"] for path in found), default=0)


class Check:
    """Jobs on a cluster, one after the other, and what becomes of them. words: of the training."""

    def __init__(self, cluster: Cluster, table: Table, words: list[str]) -> None:
        self.cluster, self.table, self.words = cluster, table, words

    def start(self, out: Path, last: int) -> str:
        """Submit a training of so many steps, and wait for its first ones."""
        job = self.cluster.submit(*self.words, f"train.out={out}", f"train.steps={last}")
        wait(lambda: "step 4/" in self.cluster.log(job), "fourth step")
        return job

    def stopped(self, job: str, out: Path, title: str, act: Callable[[], object], by: str) -> None:
        """Act on a running job: it is to save, to be queued again, and to go on from there."""
        before, cluster = cluster_parts(self.cluster.log(job)), self.cluster
        began = time.monotonic()
        act()
        wait(lambda: cluster.log(job).count("stopped by") > before, "stop")
        seconds, saved = time.monotonic() - began, steps(out)
        wait(lambda: cluster.show(job, "JobState") == "PENDING", "job in the queue")
        time.sleep(3)  # SLURM would wait two minutes with what was queued again; at once it starts nothing
        with contextlib.suppress(RuntimeError):
            cluster.do("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait(lambda: cluster.log(job).count("resumed from") > before, "second part")
        part = cluster.log(job).rpartition("stopped by")[2]
        wait(lambda: re.search(r"^step \d+/", cluster.log(job).rpartition("resumed from")[2], re.MULTILINE), "step")
        goes_on = f"at step {saved}" in part.rpartition("resumed from")[2]
        holds = (
            goes_on and part.startswith(f" {by} at step {saved} ") and cluster.show(job, "Restarts") == str(before + 1)
        )
        self.table.row(
            title, f"{seconds:.0f}", saved, cluster.show(job, "Restarts"), cluster.show(job, "JobState"), holds=holds
        )

    def near_its_limit(self, job: str) -> None:
        """Have the time of a running job be over in one to two minutes: it is signalled a minute before."""
        minutes = int(self.cluster.show(job, "RunTime").split(":")[1])
        self.cluster.do("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}")

    def finished(self, job: str, out: Path, last: int) -> None:
        """Wait for the end."""
        wait(lambda: self.cluster.show(job, "JobState") not in ("RUNNING", "COMPLETING"), "end")
        state, restarts = self.cluster.show(job, "JobState"), self.cluster.show(job, "Restarts")
        log = self.cluster.log(job)
        holds = (
            state == "COMPLETED" and steps(out) == last and f"trained {last} steps" in log and "Traceback" not in log
        )
        self.table.row("finished", "-", steps(out), restarts, state, holds=holds)

    def cancelled(self, out: Path) -> None:
        """A job that its user cancels saves, and does not come back."""
        job = self.start(out, 100_000)
        began = time.monotonic()
        self.cluster.do("scancel", job)
        wait(lambda: self.cluster.show(job, "JobState") not in ("RUNNING", "COMPLETING"), "end")
        seconds, state = time.monotonic() - began, self.cluster.show(job, "JobState")
        time.sleep(3)
        same = self.cluster.show(job, "JobState") == state == "CANCELLED"
        holds = same and steps(out) > 0 and "stopped by SIGTERM" in self.cluster.log(job)
        self.table.row("scancel", f"{seconds:.0f}", steps(out), self.cluster.show(job, "Restarts"), state, holds=holds)


def cluster_parts(log: str) -> int:
    """How often a job was stopped."""
    return log.count("stopped by")


def check(folder: Path, quick: bool) -> Table:
    """The rows."""
    table = Table(
        "launch/slurm.sh on two nodes of two ranks",
        ("what happens", "s to save", "saved step", "restarts", "state"),
        (22, 9, 10, 8, 10),
    )
    (folder / "data").mkdir()
    write_data(folder / "data")
    preset = folder / "data" / "tiny.yaml"
    preset.write_text(re.sub(r"^eval:.*", "", preset.read_text(), flags=re.MULTILINE))
    words = ["--preset", str(preset), f"data.shards=[{folder}/data/train]", "data.max_skipped=0.9", "train.log_every=1"]
    words += ["train.tensorboard=false", "train.save_every=0"]
    (folder / "machines").mkdir()
    with machines(folder / "machines") as pair:
        cluster = Cluster(folder, pair, tasks=1 if quick else 2)
        cluster.ready()
        checks, out = Check(cluster, table, words), folder / "run"
        try:
            last = 40 if quick else 150
            job = checks.start(out, last)
            checks.stopped(
                job, out, "scancel --signal=USR1", lambda: cluster.do("scancel", "--signal=USR1", job), "SIGUSR1"
            )
            if not quick:
                rival = [
                    "sbatch",
                    "--partition=high",
                    "--nodes=2",
                    "--exclusive",
                    "--output=/dev/null",
                    "--wrap=sleep 2",
                ]
                checks.stopped(job, out, "preempted", lambda: cluster.do(*rival), "SIGTERM")
                near = partial(checks.near_its_limit, job)
                checks.stopped(job, out, "limit of time near", near, "SIGUSR1")
                cluster.do("scontrol", "update", f"JobId={job}", "TimeLimit=10")
            checks.finished(job, out, last)
            if not quick:
                checks.cancelled(folder / "cancelled")
        except TimeoutError as error:
            table.row(error, "-", "-", "-", "-", holds=False)
            print(cluster.do("scontrol", "show", "job"))
        if table.failures:
            for path in (*folder.glob("job-*.log"), *folder.glob("slurm*.log")):
                print(f"--- {path.name}\n{path.read_text(errors='replace')[-5000:]}")
    return table


def prepare(setenv: Callable[[str, str], object]) -> None:
    """Set what the jobs take from the environment of `sbatch`."""
    for name, value in {"VENV": sys.prefix, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}.items():
        setenv(name, value)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one job, stopped once")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up
    lacking = [*missing(), *(name for name in PROGRAMS if shutil.which(name) is None)]
    if lacking:
        parser.error(f"needs {', '.join(lacking)}")
    prepare(os.environ.__setitem__)
    with tempfile.TemporaryDirectory() as name:
        table = check(Path(name), args.quick)
    finish(table)


if __name__ == "__main__":
    main()
