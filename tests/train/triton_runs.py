"""A few steps with every op on each backend, in every ZeRO stage: `TRITON_INTERPRET=1 python triton_runs.py FOLDER`.

Leaves FOLDER/BACKEND-STAGE.pt: the losses of each step and the state after the last.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from silc.config import KernelsConfig
from silc.distributed import init
from tests.train import cases, runs

STEPS = 2
BACKENDS = ("torch", "triton")


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    world = init(timeout_minutes=2)
    for stage in cases.STAGES:
        for backend in BACKENDS:
            kernels = KernelsConfig(contrastive=backend, distill=backend, patch_embed=backend)
            run = replace(cases.config(stage=stage, steps=STEPS), kernels=kernels)
            place = folder / f"{backend}-{stage}"
            trainer = runs.make_trainer(run, world, place, runs.shares(run, world, STEPS))
            trainer.run()
            trainer.close()
            rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
            torch.save({"rows": rows, "state": runs.state_of(trainer)}, folder / f"{backend}-{stage}.pt")


if __name__ == "__main__":
    main()
