"""The log of a run that goes on: every step once."""

from __future__ import annotations

import json
import os

import pytest

from silc.config import Config
from silc.train.metrics import MetricLog, drop_later_rows


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


@pytest.mark.parametrize(
    "odd",
    [b"[" * 100_000, b"[1]", b"5", b"{}", b'{"step": "3"}', b'{"step": null}', b'{"step": true}', b"\xff\xfe", b""],
)
def test_lines_that_are_no_rows_are_left_out_alone(tmp_path, odd):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 2, "loss": 1}\n' + odd + b'\n{"step": 4}\n{"step": 9}\n')
    drop_later_rows(path, 4)
    assert path.read_bytes() == b'{"step": 2, "loss": 1}\n{"step": 4}\n'


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match="is a pipe"):
        drop_later_rows(tmp_path / "metrics.jsonl", 4)
