"""One run repeated from its seed gives the same figures to the last digit, on the same machine.

    python -m tests.soak.repeat RUN [--out FOLDER] [--num_gpus N]

Trains RUN again as its config.yaml says, into FOLDER/again, and compares every metric of evaluation.json, every loss in
the log, and the weights of the last checkpoint, all of them exactly. RUN itself is only read. On a CPU with one thread,
as `silc claims` trains: the number of threads is part of the arithmetic. Status: 0 all equal, 1 something differs, 2
there is nothing to compare: RUN is no run that has come to its end and was last measured as its config.yaml says.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load_file

from benchmarks import ROOT
from silc import config_io
from silc.config import Config
from silc.evaluate.report.page import read_log
from silc.evaluate.results import Kept, read_results
from silc.ports import free_port
from silc.train import checkpoint
from tests.soak.common import Table, finish

LOGGED = ("loss", "loss_contrastive", "loss_distill", "teacher_entropy", "center_norm", "grad_norm", "logit_scale")
Figures = dict[str, object]


def train(run: Path, out: Path, num_gpus: int | None) -> None:
    """Train the run of a folder again. Raises subprocess.CalledProcessError."""
    options = [f"--num_gpus={num_gpus}", f"--master_port={free_port()}"] if num_gpus else []
    words = ["--preset", str(run / "config.yaml"), f"train.out={out}", "train.resume=null"]
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, "-m", "silc", "train", *options, *words]
    subprocess.run(command, check=True, env=os.environ | one | {"PYTHONPATH": path})


def check(run: Path, again: Path) -> None:
    """Raises ValueError where the second run could not be compared, or has no place: before it is trained."""
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run} is no run's folder: it has no config.yaml")
    if again.exists():
        raise ValueError(f"{again} exists; remove it, or give another --out")
    found = read_results(run)
    if found is None:
        raise ValueError(f"{run} has no evaluation.json, or a damaged one; measure it first: silc evaluate {run}")
    config = config_io.read_config(run / "config.yaml")
    others = list(unlike(found, config))
    if others:
        raise ValueError(
            f"{run} was last measured otherwise than its config.yaml says ({', '.join(others)}), and a second run "
            f"would not be; measure it again: silc evaluate {run} --tasks {','.join(config.eval.after)}"
        )
    checkpoint.find(run, only=())


def unlike(found: Kept, config: Config) -> Iterator[str]:
    """What of an evaluation is not as at the end of a run. Files of earlier versions do not say all of it."""
    tree = config_io.to_dict(config)
    for section, kept in (("eval", found.options), ("data", found.data)):
        yield from (f"{section}.{key}" for key, value in kept.items() if tree[section].get(key) != value)
    if found.step != config.train.steps:
        yield f"at step {found.step} of {config.train.steps}"
    if found.tasks is not None and set(found.tasks) != set(config.eval.after):
        yield "the tasks"


def measured(run: Path) -> Figures:
    """Every metric of the last evaluation with its chance and error; none of a run without one."""
    found = read_results(run)
    return {
        f"{result['task']}/{result['model']}/{name}": metric
        for result in ([] if found is None else found.results)
        for name, metric in result["metrics"].items()
    }


def logged(run: Path) -> Figures:
    """What the log says of the training, by step, times left aside."""
    rows, _ = read_log(run)
    return {f"{row['step']}/{name}": row[name] for row in rows for name in LOGGED if name in row}


def weights(run: Path) -> Figures:
    """The bytes of each tensor of the last checkpoint."""
    last = checkpoint.find(run, only=checkpoint.WEIGHTS)
    return {
        f"{file.stem}/{name}": value.numpy().tobytes()
        for file in sorted(last.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def compare(run: Path, again: Path) -> Table:
    """A row for each kind of figures: none may be missing, and none differ."""
    table = Table("The same seed gives the same figures, exactly", ("figures", "of", "differ"), (12, 8, 8))
    for name, read in (("metrics", measured), ("log", logged), ("weights", weights)):
        one, other = read(run), read(again)
        differ = [key for key in one.keys() | other.keys() if key not in one or one[key] != other.get(key)]
        table.row(name, len(one), len(differ), holds=bool(one) and not differ)
        for key in sorted(differ)[:8]:
            print(f"  {key}" + ("" if name == "weights" else f": {one.get(key)} and {other.get(key)}"))
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Ends the program; status 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--out", type=Path, help="for the second run (default: a temporary folder)")
    parser.add_argument("--num_gpus", type=int, help="ranks, as the run had them")
    args = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        again = (args.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))) / "again"
        try:
            check(args.run, again)
            train(args.run, again, args.num_gpus)
        except (OSError, ValueError) as error:
            parser.exit(2, f"repeat: {error}\n")
        except subprocess.CalledProcessError as error:
            parser.exit(2, f"repeat: the second training ended with status {error.returncode}; its words are above\n")
        finish(compare(args.run, again))


if __name__ == "__main__":
    main()
