"""Every run that needs the real launcher and process group, one after another: `deepspeed worker.py FOLDER`.

A launch costs far more than these runs, so there is one for each number of ranks. Each rank leaves its findings in
FOLDER/RANKS-RANK.pt; the tests judge them.
"""

from __future__ import annotations

import argparse
import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch: the launcher numbers devices that this test must not use

from pathlib import Path
from typing import Any

import torch

from silc.distributed import World, init
from tests.train import begins, faults, resume, rewinds, runs


def everything(world: World, folder: Path) -> dict[str, Any]:
    """Every finding of this number of ranks."""
    findings: dict[str, Any] = {"trajectories": runs.trajectories(world, folder), "begun": begins.begun(world)}
    if world.size > 1:
        findings |= {"averages": runs.averages(world, folder)}
        findings |= {"discarded": faults.discarded(world, folder), "stopped": faults.stopped(world, folder)}
        findings |= {"without_data": faults.without_data(world, folder)}
    findings |= {"rewound": rewinds.rewound(world, folder)}
    stage = 2 if world.size > 1 else 3
    findings |= {"resumed": resume.resumed(world, folder, stage=stage)}
    return findings | {"resumed_bf16": resume.resumed(world, folder, stage=stage - 1, precision="bf16")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--local_rank", type=int)  # from the launcher
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = init(timeout_minutes=2)
    findings = everything(world, args.folder / f"runs-{world.size}")
    torch.save(findings, args.folder / f"{world.size}-{world.rank}.pt")


if __name__ == "__main__":
    main()
