"""What an evaluation leaves: evaluation.json, report.html, and a sheet of held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from silc.config import Config
from silc.data.splits import CAPTIONS, LABELS
from silc.distributed import World
from silc.evaluate.datasets import EvalData
from silc.evaluate.report import examples as exhibits
from silc.evaluate.report.contact_sheet import draw
from silc.evaluate.report.page import NAME, read_log, write_report
from silc.evaluate.runner import Result, unchanged
from silc.evaluate.sharding import Job
from silc.evaluate.towers import Towers

SHEET = 24  # pictures


def report(
    config: Config,
    models: Sequence[Towers],
    data: EvalData,
    results: Sequence[Result],
    title: str,
    *,
    run: Path,
    folder: Path,
) -> Path:
    """Write report.html (one rank). Returns its path.

    Args:
        config, models, data, results: what was measured.
        title: of the page.
        run: folder whose metrics.jsonl gives the curves.
        folder: where the page goes.
    """
    write_report(folder / NAME, title, read_log(run), results, exhibits.collect(config, models, data, results))
    return folder / NAME


def sheet(config: Config, model: Towers, data: EvalData, title: str, path: Path) -> bool:
    """Draw held-out pictures with their closest captions, or classes where there are no captions (one rank).

    Returns False where the data has neither.
    """
    job = Job(config, World(0, 1, model.device), "sheet", limited=False)
    with unchanged():
        if data.retrieval is not None and CAPTIONS in data.retrieval.test.has:
            shown, _ = exhibits.retrieved(model, data.retrieval, job, SHEET)
        elif data.classification is not None and LABELS in data.classification.test.has:
            shown = exhibits.classified(model, data.classification, job, SHEET)
        else:
            return False
    images = [torch.from_numpy(one.picture).permute(2, 0, 1) for one in shown]
    draw(images, [one.truth[0] for one in shown], [one.guesses for one in shown], title, path)
    return True
