"""The trainer: engine, step, loop, schedules, checkpoints, metrics. `silc.train(...)` trains in this process.

The name is a subpackage's and a function's. Python sets the attribute `silc.train` to this module as soon as any module
below it is imported, in place of a function of that name; so the module itself can be called, and `silc.train` is one
and the same object before and after.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def train(preset: str | Path = "sample", **sections: Any) -> Path:
    """Train in this process on one device, as `silc train` does on many.

    Runs from start to finish: checkpoints, the export for open_clip, evaluation and report are written to the run
    folder, which :func:`silc.load` reads.

        run = silc.train("sample", train={"steps": 200, "out": "runs/short"}, data={"shards": ["pairs/{00..09}.tar"]})

    Args:
        preset: a preset's name, or the path of a YAML file.
        sections: overrides of the preset, a mapping of keys a section; docs/configuration.md lists them.

    Returns:
        The run folder: train.out, or the first free one of runs/PRESET, runs/PRESET-2, ...

    Raises:
        ValueError: a mistake in the configuration or the data, before training starts.
        silc.errors.RunStopped: training could not be finished; the message says why and what to do.
        silc.errors.RunInterrupted: a signal (Ctrl-C in a terminal, the stop button of a notebook) asked for the end
            after the step; a checkpoint is written, and train={"resume": "auto", "out": the same folder} goes on.
    """
    from silc.train.in_process import train_in_process

    return train_in_process(preset, sections)


class _Callable(ModuleType):
    def __call__(self, preset: str | Path = "sample", **sections: Any) -> Path:
        return train(preset, **sections)


_Callable.__call__.__doc__ = train.__doc__
sys.modules[__name__].__class__ = _Callable
