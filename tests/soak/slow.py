"""A training that tarries at one moment, so that a signal can hit it there: what `tests.soak.signals` starts.

    python -m tests.soak.slow front WORDS...       `silc train WORDS`, whose ranks run this module
    deepspeed tests/soak/slow.py WORDS...          a rank

Environment: SLOW_MOMENT, one of MOMENTS; SLOW_FOLDER, where a rank that has come to the moment leaves a file
at.RANK, and the first rank the number of its steps in `steps`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT / "kernels", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

MOMENTS = ("imports", "start", "step", "evaluation", "save", "last-save", "export", "last-evaluation")
TARRIES = 4.0  # seconds at the moment
MOMENT, FOLDER = os.environ.get("SLOW_MOMENT", ""), Path(os.environ.get("SLOW_FOLDER", "."))
STEP = 0.3  # seconds of each step


def arrived(moment: str, tarry: float = TARRIES) -> None:
    """Say that the moment has come, if it is the one that is waited for, and stay there."""
    if moment == MOMENT:
        (FOLDER / f"at.{os.environ.get('RANK', '0')}").touch()
        time.sleep(tarry)


def slow_down() -> None:
    """Put the moments into the code of a run."""
    from silc.evaluate.sharding import Job
    from silc.train import export, loop, run, saving, sources

    now = {"evaluation": "", "step": 0, "steps": -1}

    def resolve(config: Any, world: Any, *rest: Any) -> Any:
        now["steps"] = config.train.steps
        if world.main:  # the others wait for it in a collective
            arrived("start")
        return inner_resolve(config, world, *rest)

    def step(self: Any, *words: Any, **options: Any) -> Any:
        report = inner_step(self, *words, **options)
        now["step"] += 1
        if os.environ.get("RANK", "0") == "0":
            (FOLDER / "steps").write_text(str(now["step"]))
        time.sleep(STEP)
        if now["step"] == 3:
            arrived("step")
        return report

    def write(*words: Any) -> None:
        last = now["step"] == now["steps"]
        arrived("last-save" if last else "save", TARRIES / 2)
        inner_write(*words)
        arrived("last-save" if last else "save", TARRIES / 2)

    def write_export(*words: Any, **named: Any) -> Any:
        arrived("export")
        return inner_export(*words, **named)

    def share(self: Any, items: Any) -> Iterator[Any]:
        for item in inner_share(self, items):
            arrived("last-evaluation" if now["step"] == now["steps"] else "evaluation", 2.0)
            yield item

    inner_resolve, sources.resolve = sources.resolve, resolve
    inner_step, loop.SilcStep.__call__ = loop.SilcStep.__call__, step
    inner_write, saving.write = saving.write, write
    inner_export, export.write_export = export.write_export, write_export
    inner_share, Job._share = Job._share, share
    assert run.sources is sources


def rank() -> None:
    """A rank of the job."""
    from silc.commands import train

    main: Callable[..., int] = train.main

    def slow(argv: Any = None) -> int:
        from silc.train import listener

        # After the handlers stand, and before what takes long to import.
        inner = listener.ancestors

        def ancestors() -> Any:
            found = inner()
            arrived("imports", 0.0)
            return found

        listener.ancestors = ancestors
        sys.meta_path.insert(0, _After("silc.train.run", slow_down))
        return main(argv)

    train.main = slow
    train.script()


class _After:
    """Calls a function when a module has been imported."""

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self._name, self._function = name, function

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            self._function()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def front(words: list[str]) -> int:
    """`silc train`."""
    from silc.commands import launcher, main

    command = launcher.command
    launcher.command = lambda _, *rest: command("tests.soak.slow", *rest)
    return main.main(["train", *words])


if __name__ == "__main__":
    if sys.argv[1:2] == ["front"]:
        sys.exit(front(sys.argv[2:]))
    rank()
