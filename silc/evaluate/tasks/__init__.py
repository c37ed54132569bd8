"""The tasks by name, in the order of silc.config.TASKS: one file each, named as its task.

Adding a task, here `counting`, is one file and one line:

1. Write counting.py in this folder: a docstring with the protocol and its source, the function

       def run(model: Towers, data: DataSet, job: Job) -> Iterator[Metric]: ...

   and at the end `TASK = Task("counting", "classification", frozenset({LABELS}), run)`: its name, the data set that it
   is measured on (classification, retrieval or segmentation), and what that data set must have. Where the data lacks
   something, the task is left out with a sentence that says what.
2. Add "counting" to Task in silc/config/evaluation.py. The configuration checks names there without importing torch.

In `run`, job.chosen gives the images to use; job.over_images, job.several and job.each share the work among the ranks
and give every rank the same values; call job.check in other loops, for eval.timeout_minutes. Append the protocol to
job.notes, and put what the report shows beside the metrics into job.details. Yield one Metric a number, with the
value that chance gives; a name has letters, digits, '_', '.', '-' and '@' (silc.evaluate.results.NAMES), and that of
one of which lower values are better belongs into silc.evaluate.metric.LOWER. Raise ValueError for a mistake in the
data, with the image's key and a way to mend it. Use random generators with fixed seeds: the same weights must give
the same metrics. New options are keys of EvalConfig.

Test it against an independent implementation, in tests/evaluate/test_counting.py. The general tests take it from the
list: that it changes no state, and that one process and two measure the same (test_runner.py, test_sharding.py).
"""

from __future__ import annotations

from importlib import import_module

from silc import config
from silc.evaluate.tasks.task import Task

# Task has a module of its own since every task imports it: in this one, tasks and registry would import each other.
TASKS: dict[str, Task] = {name: import_module(f"{__name__}.{name}").TASK for name in config.TASKS}
