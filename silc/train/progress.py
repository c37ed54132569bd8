"""The line a person watches: tqdm with the numbers that show whether the run is healthy."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from silc.text import plural


class Progress:
    """A progress bar on a terminal; on a pipe or in a log file, one plain line for each log interval."""

    def __init__(self, total: int, done: int, *, enabled: bool) -> None:
        self._enabled, self._total = enabled, total
        self._terminal = enabled and sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="step",
            dynamic_ncols=True,
            disable=not enabled,
            file=None if self._terminal else _Silent(),
        )

    def advance(self) -> None:
        """One step applied."""
        self._bar.update()

    def show(self, values: dict[str, Any]) -> None:
        """Show the numbers of a log interval."""
        if not self._enabled:
            return
        parts = [f"loss {values['loss']:.3f}", f"contrastive {values['loss_contrastive']:.3f}"]
        if "loss_distill" in values:
            parts += [
                f"distill {values['loss_distill']:.3f}",
                f"teacher entropy {values.get('teacher_entropy', float('nan')):.2f}",
            ]
        parts.append(f"{values['samples_per_second']:.0f} samples/s")
        if "mfu" in values:
            parts.append(f"MFU {values['mfu']:.1%}")
        parts.append(f"data wait {values['waiting_for_data']:.0%}")
        if values.get("read_retries"):
            parts.append(plural(values["read_retries"], "read tried again", "reads tried again"))
        if values["skipped_steps"] or values["skipped_samples"]:
            steps, samples = plural(values["skipped_steps"], "step"), plural(values["skipped_samples"], "sample")
            parts.append(f"skipped {steps}, {samples}")
        text = "  ".join(parts)
        if self._terminal:
            self._bar.set_postfix_str(text, refresh=False)
            return
        rate = self._bar.format_dict
        done, elapsed = self._bar.n + 1, rate["elapsed"]
        left = (self._total - done) * elapsed / max(1, done - self._bar.initial)
        print(f"step {done}/{self._total}  ETA {tqdm.format_interval(left)}  {text}", flush=True)

    def back(self, step: int) -> None:
        """The run went back to an earlier step."""
        if self._enabled:
            self._bar.n = step
            self._bar.initial = min(self._bar.initial, step)
            self._bar.refresh()

    def line(self, text: str) -> None:
        """A line that stays, of the main rank."""
        if self._enabled:
            tqdm.write(text) if self._terminal else print(text, flush=True)

    def waiting(self, text: str) -> None:
        """Show on a terminal what the run waits for, until numbers are shown again."""
        if self._terminal:
            self._bar.set_postfix_str(text)

    def say(self, text: str) -> None:
        """A line of its own, of any rank, where there is no terminal to show it on."""
        if not self._terminal:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the last line standing."""
        self._bar.close()


class _Silent:
    """A file that takes tqdm's drawing where it would only clutter a log."""

    def write(self, text: str) -> None:
        """Drop the text."""

    def flush(self) -> None:
        """Nothing to flush."""
