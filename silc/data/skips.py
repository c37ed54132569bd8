"""Counting of samples that could not be used, and the limit of how many may be."""

from __future__ import annotations

import logging
from collections import Counter, deque

from silc.data.batch import Batch
from silc.data.shards.samples import NOWHERE
from silc.data.shards.sidecar import MISFIT
from silc.errors import RunStopped
from silc.text import plural

log = logging.getLogger(__name__)

RECENT = 16384  # samples over which the share of skipped ones is computed
FEWEST = 256  # the share is computed over at least this many, so that a few early skips do not end a run
WAYS_OUT = dict.fromkeys(
    (NOWHERE, MISFIT),
    "the shards have changed since they were indexed: index them again (`silc shards index`; a new start does so for a "
    "few local ones)",
)
LOGGED = 5  # skips that are logged one by one; afterwards each time their number has doubled


class SkipGuard:
    """Counts and logs skipped samples, and ends the run when there are too many.

    Args:
        max_skipped: largest allowed share of the last RECENT samples.
    """

    def __init__(self, max_skipped: float) -> None:
        self._max_skipped = max_skipped
        self._recent: deque[tuple[int, int]] = deque()  # (samples used, samples skipped) of each batch
        self._used, self._skipped, self._reported = 0, 0, LOGGED
        self.total = 0
        self.reasons: Counter[str] = Counter()

    def update(self, batch: Batch) -> None:
        """Count a batch. Raises RunStopped past the limit."""
        for skip in batch.skipped:
            self.total += 1
            self.reasons[skip.reason] += 1
            if self.total <= LOGGED:
                log.warning("skipped %s: %s", *skip)
            elif self.total >= 2 * self._reported:
                self._reported = self.total
                log.warning("skipped %d samples so far (%s), last %s", self.total, self._summary(), skip.key)
        self._recent.append((len(batch), len(batch.skipped)))
        self._used += len(batch)
        self._skipped += len(batch.skipped)
        while self._used - self._recent[0][0] >= RECENT:
            used, skipped = self._recent.popleft()
            self._used -= used
            self._skipped -= skipped
        seen = self._used + self._skipped
        if self._skipped > self._max_skipped * max(seen, FEWEST):
            raise RunStopped(
                f"skipped {self._skipped} of the last {plural(seen, 'sample')} ({self._summary()}), last "
                f"{batch.skipped[-1].key}: more than data.max_skipped={self._max_skipped} allows; "
                f"{WAYS_OUT.get(self.reasons.most_common(1)[0][0], 'repair the shards or raise the limit')}"
            )

    def _summary(self) -> str:
        return ", ".join(f"{reason}: {count}" for reason, count in self.reasons.most_common())
