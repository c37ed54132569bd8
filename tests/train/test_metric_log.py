"""The log of a run that goes on: every step once."""

from __future__ import annotations

import json
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
    rows = [{"step": 3, "position": 40}, {"step": 4, "position": 48}, {"step": 4, "position": 64}, {"step": 9}]
    (tmp_path / "skipped_steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = MetricLog(config, tmp_path, 4, position=48)
    log.write(6, {"loss": 2.0})
    log.close()
    assert steps(tmp_path / "metrics.jsonl") == [2, 4, 6]
    # The step whose samples come again is dropped; the stretch before the position of the checkpoint does not.
    assert steps(tmp_path / "skipped_steps.jsonl") == [3, 4]


def test_a_run_that_goes_back_takes_later_steps_again(tmp_path):
    config = Config()
    log = MetricLog(config, tmp_path, 0)
    log.with_next({"resumed": {"optim.lr": (1, 2)}})
    for step in (2, 4, 6):
        log.write(step, {"loss": 1.0})
    log.go_back(2)
    log.write(2, {"rewound_from": 6})
    log.write(4, {"loss": 3.0})
    log.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row.get("loss"), row.get("rewound_from")) for row in rows] == [
        (2, 1.0, None), (2, None, 6), (4, 3.0, None)
    ]  # fmt: skip
    assert [row.get("resumed") for row in rows] == [{"optim.lr": [1, 2]}, None, None]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(2, 1.0), (4, 3.0)]


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
