"""A job of several processes: DeepSpeed's launcher, its options, and the signals and the exit status of the job."""

from __future__ import annotations

import glob
import importlib.util
import os
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import psutil

from silc.commands import supervision
from silc.commands.common import Parser, passive_threads
from silc.errors import STOPPED_BY_SIGNAL
from silc.ports import free_port
from silc.train.ancestors import OWNER, owner

# Options of DeepSpeed's launcher: names, and the type of the value or None for a switch. Repeated here because reading
# them from DeepSpeed loads torch; a test compares.
OPTIONS: tuple[tuple[tuple[str, ...], type | None], ...] = (
    (("--hostfile", "-H"), str),
    (("--include", "-i"), str),
    (("--exclude", "-e"), str),
    (("--num_nodes",), int),
    (("--num_gpus", "--num_accelerators"), int),
    (("--master_port",), int),
    (("--master_addr",), str),
    (("--node_rank",), int),
    (("--launcher",), str),
    (("--launcher_args",), str),
    (("--no_local_rank",), None),
    (("--no_ssh",), None),
    (("--no_ssh_check",), None),
    (("--force_multi",), None),
    (("--save_pid",), None),
    (("--enable_each_rank_log",), str),
    (("--bind_cores_to_rank",), None),
    (("--bind_core_list",), str),
    (("--ssh_port",), int),
    (("--venv_script",), str),
    (("--log_level",), str),
    (("--quiet", "-q"), None),
)
NAMES = [name for names, _ in OPTIONS for name in names if name.startswith("--")]
LEFT_OUT = ("--module", "--no_python", "--autotuning")  # decided here, or of no use to this trainer
HOSTFILE = Path("/job/hostfile")  # read by the launcher when no other is named
SEVERAL = ("--hostfile", "--num_nodes", "--node_rank", "--master_addr", "--launcher", "--force_multi", "--no_ssh")
# Device files of NVIDIA's and AMD's GPUs, of Jetson boards and of WSL: asking torch would load it.
GPU_DEVICES = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvmap", "/dev/kfd", "/dev/dxg")
KNOWN = (0, 1, 2, STOPPED_BY_SIGNAL)  # exit statuses that a rank has explained


def split(prog: str, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the launcher's options, each as one word; all other words in their order). A mistake ends with status 2."""
    parser = Parser(prog, None, add_help=False, allow_abbrev=False)
    for names, kind in OPTIONS:
        if kind is None:
            parser.add_argument(*names, action="store_true", default=None)
        else:
            parser.add_argument(*names, type=kind)
    given, rest = parser.parse_known_args(list(argv))
    values = {name: value for name, value in vars(given).items() if value is not None}
    if values.get("num_gpus", 1) < 1:
        parser.error(f"--num_gpus {values['num_gpus']}: give at least 1, or leave it out")
    if "hostfile" in values and not Path(values["hostfile"]).is_file():  # the launcher would take this machine alone
        parser.error(f"--hostfile {values['hostfile']} is not a file")
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()], rest


def ranks(options: Sequence[str]) -> int | None:
    """How many ranks the job has, or None where only the launcher knows: it looks at machines and devices."""
    given = dict(option.split("=", 1) for option in options if "=" in option)
    elsewhere = "--hostfile" in given or HOSTFILE.exists()
    return None if elsewhere or "--num_gpus" not in given else int(given["--num_gpus"])


def with_port(options: Sequence[str]) -> list[str]:
    """`options` with a free --master_port, if none is given and the job is on this machine alone.

    The launcher's own is 29500 for every job. On several machines all must be told the same one.
    """
    if not _alone(options) or any(option.startswith("--master_port=") for option in options):
        return list(options)
    return [f"--master_port={free_port()}", *options]


def _alone(options: Sequence[str]) -> bool:
    """Whether the job is on this machine alone."""
    return not ({option.split("=")[0] for option in options} & set(SEVERAL) or HOSTFILE.exists())


def command(module: str, options: Sequence[str], words: Sequence[str]) -> list[str]:
    """The command that runs `module` on every rank with these words.

    The launcher logs after the last message of a rank that left: that a user's mistake is the last line, it is silent
    unless `options` say otherwise.
    """
    logging = any(option.split("=")[0] in ("--log_level", "--quiet") for option in options)
    quiet = [] if logging else ["--log_level=critical"]
    return [sys.executable, "-m", "deepspeed.launcher.runner", *quiet, *options, "--module", module, *words]


def environment() -> dict[str, str]:
    """The environment in which every rank imports the same `silc` and `silc_kernels` as this process."""
    passive_threads()
    installed = {Path(folder).resolve() for folder in (*site.getsitepackages(), site.getusersitepackages())}
    folders = []
    for name in ("silc", "silc_kernels"):
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        assert spec.origin is not None, name
        folder = Path(spec.origin).resolve().parents[1]
        if folder not in installed and str(folder) not in folders:
            folders.append(str(folder))
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*folders, *([before] if before else [])])
    # Without PYTHONSAFEPATH `--module` would look in the working directory first.
    found = os.environ | {"PYTHONSAFEPATH": "1"} | ({"PYTHONPATH": path} if path else {})
    if not any(glob.glob(device) for device in GPU_DEVICES):
        found.setdefault("DS_ACCELERATOR", "cpu")  # as DeepSpeed would choose, but without its warning
    return found


def run(
    prog: str,
    module: str,
    options: Sequence[str],
    words: Sequence[str],
    elsewhere: Callable[[int], bool] | None = None,
) -> int:
    """Exit status of a job. SIGINT, SIGTERM, SIGHUP and SIGUSR1 to this process are passed to its ranks here.

    `module` tells its status by :func:`silc.commands.supervision.tell`.

    elsewhere: passes a signal to ranks on other machines; false where it has found none.
    """
    stopped: list[int] = []
    options = with_port(options)
    supervision.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="silc-", ignore_cleanup_errors=True) as folder:
        env = environment() | {OWNER: owner(), supervision.TOLD: folder}
        process = subprocess.Popen(command(module, options, words), env=env, start_new_session=True)

        def stop(signum: int, frame: FrameType | None) -> None:
            stopped.append(signum)
            pass_on(process.pid, signum, elsewhere)

        before = {}
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # as nohup has it
                before[signum] = signal.signal(signum, stop)
        try:
            status = process.wait()
            supervision.wait_for_orphans()
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        told = supervision.told(Path(folder))
    here = _alone(options)
    final = supervision.outcome(status, told, stopped=bool(stopped), here=here)
    if final == STOPPED_BY_SIGNAL and not told and here and status != final:
        print(f"{prog}: stopped by {signal.Signals(stopped[0]).name} while starting: nothing was trained")
    elif final == 255 and "DS_ENV_FILE" in os.environ:
        pass  # of ssh: several_nodes says it
    elif final not in KNOWN and not stopped:
        print(f"{prog}: {_ending(status)}", file=sys.stderr)
    elif status == 0 and final and not told:
        print(f"{prog}: a process of the job was ended before its ranks had started", file=sys.stderr)
    return final if final >= 0 else 128 - final


def pass_on(launcher: int, signum: int, elsewhere: Callable[[int], bool] | None = None) -> None:
    """Send a signal to the ranks on this machine, or to those elsewhere; the launcher itself would kill them before
    they have saved.

    Where there are none (they have not started) the launcher's processes are ended.
    """
    signum = signal.SIGTERM if signum == signal.SIGHUP else signum
    found = supervision.ranks()
    if not found and not (elsewhere is not None and elsewhere(signum)):
        try:
            os.killpg(launcher, signal.SIGTERM)
        except ProcessLookupError:
            return
    for rank in found:
        try:
            rank.send_signal(signum)
        except psutil.NoSuchProcess:
            continue


def _ending(status: int) -> str:
    """Why a job ended that no rank has explained: the launcher's status for a signal n is 256 - n."""
    number = -status if status < 0 else 256 - status
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        return f"a process of the job was ended by {name}" + ("; was memory short?" if name == "SIGKILL" else "")
    return f"the job ended with status {status}"
