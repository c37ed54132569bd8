"""What an evaluation leaves: evaluation.json, report.html, and a contact sheet of held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from silc.config import Config
from silc.data.splits import CAPTIONS, LABELS
from silc.distributed import World
from silc.evaluate.datasets import EvalData
from silc.evaluate.report import examples
from silc.evaluate.report.about import about
from silc.evaluate.report.contact_sheet import draw
from silc.evaluate.report.page import NAME, read_log, write_report
from silc.evaluate.runner import Result, unchanged
from silc.evaluate.sharding import Job
from silc.evaluate.towers import Towers

SHEET = 24  # images


def report(
    config: Config,
    models: Sequence[Towers],
    data: EvalData,
    results: Sequence[Result],
    title: str,
    *,
    run: Path,
    folder: Path,
    argv: Sequence[str] | None = None,
) -> Path:
    """Write report.html (one rank). Returns its path.

    Args:
        config, models, data, results: what was measured.
        title: of the page.
        run: folder whose metrics.jsonl gives the curves.
        folder: where the page goes.
        argv: script and words of the command, shown at the top; None: those of this process.
    """
    shown = examples.collect(config, models, data, results)
    made = about(config, data, results, models[0].device, run=run, argv=argv)
    log, unreadable = read_log(run)
    write_report(folder / NAME, title, log, results, shown, made, unreadable)
    return folder / NAME


def sheet(config: Config, model: Towers, data: EvalData, title: str, path: Path) -> bool:
    """Draw held-out images with their closest captions, or classes where there are no captions (one rank).

    Returns False where the data has neither.
    """
    job = Job(config, World(0, 1, model.device), "sheet", limited=False)
    with unchanged():
        if data.retrieval is not None and CAPTIONS in data.retrieval.test.has:
            shown, _ = examples.retrieved(model, data.retrieval, job, SHEET)
        elif data.classification is not None and LABELS in data.classification.test.has:
            shown = examples.classified(model, data.classification, job, SHEET)
        else:
            return False
    images = [torch.from_numpy(one.image).permute(2, 0, 1) for one in shown]
    draw(images, [one.truth for one in shown], [one.guesses for one in shown], title, path)
    return True
