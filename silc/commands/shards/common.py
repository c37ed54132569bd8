"""What the commands of `silc shards` share: the number of processes, the folder of --out, and a progress bar."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tqdm import tqdm

PAUSE = 10.0  # seconds between lines that tell how far it is, where there is no terminal


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """The option --jobs."""
    parser.add_argument("--jobs", type=_positive, metavar="N", help="processes (default: one a processor, at most 16)")


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of processes, at least 1")
    return int(text)


def say(text: str) -> None:
    """A line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def make_out(out: str | Path) -> None:
    """The folder that --out names, made where it is missing. Raises ValueError before the work where it cannot be
    written to."""
    from silc.files import make_folder

    try:
        make_folder(out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written to ({error.strerror}); give another folder with --out") from None


class Bar:
    """A progress bar on a terminal; elsewhere a plain line now and then.

    Args:
        unit: what is counted, in the singular.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._told = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first were done, and how many
        self._bar: tqdm | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, done: int, total: int, samples: int, size: int) -> None:
        """How many of the units are done, and the samples and bytes in them."""
        text = f"{samples:,} samples, {size / 1e9:.1f} GB"
        if self._terminal:
            if self._bar is None:
                self._bar = tqdm(total=total, unit=self._unit, dynamic_ncols=True, file=sys.stderr)
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if self._first is None:  # until then processes were starting
            self._first = now, done
        elif now - self._told > PAUSE:
            self._told = now
            left = (total - done) * (now - self._first[0]) / max(1, done - self._first[1])
            say(f"{done:,} of {total:,} {self._unit}s, {text}, {tqdm.format_interval(left)} left")
