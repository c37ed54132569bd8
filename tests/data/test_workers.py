"""What a decoding process does first."""

from __future__ import annotations

import gc

from torch.utils.data import DataLoader, Dataset

from silc.data.workers import context, initializer


class Frozen(Dataset[int]):
    """How many objects the collector of the reading process passes over."""

    def __getitem__(self, position: int) -> int:
        return gc.get_freeze_count()

    def __len__(self) -> int:
        return 1


def test_a_workers_collector_passes_over_what_it_shares_with_the_trainer():
    objects = len(gc.get_objects())
    loader = DataLoader(
        Frozen(),
        batch_size=None,
        num_workers=1,
        worker_init_fn=initializer(),
        multiprocessing_context=context("fork", remote=False),
    )
    assert next(iter(loader)) > 0.9 * objects > 0
    assert gc.get_freeze_count() < objects
