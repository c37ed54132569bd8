"""The log of a run that goes on: every step once."""

from __future__ import annotations

import json

from silc.config import Config
from silc.train.metrics import MetricLog


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_rows_past_the_checkpoint_are_dropped(tmp_path):
    config = Config()
    config.train.tensorboard = False
    log = MetricLog(config, tmp_path, 0)
    for step in (2, 4, 6):
        log.write(step, {"loss": 1.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # a job that was killed while it wrote
    (tmp_path / "skipped_steps.jsonl").write_text('{"step": 3}\n{"step": 4}\n')
    log = MetricLog(config, tmp_path, 4)
    log.write(6, {"loss": 2.0})
    log.close()
    assert steps(tmp_path / "metrics.jsonl") == [2, 4, 6]
    # The step discarded after step 4 comes again; the one after step 3 does not.
    assert steps(tmp_path / "skipped_steps.jsonl") == [3]
