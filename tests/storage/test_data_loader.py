"""The workers of torch's loader share a board. A module of its own: processes that are spawned import torch with it."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader, Dataset, get_worker_info

from silc.storage import Board, Range, open_store


class Reading(Dataset):
    """Item i: the file's bytes [i, i + 10), read by a store of the worker's own."""

    def __init__(self, path: str, board: Board) -> None:
        self.path, self.board = path, board

    def __getitem__(self, i: int) -> bytes:
        info = get_worker_info()
        assert info is not None
        store = open_store(patience=5, board=self.board, worker=info.id)
        return store.read([Range(self.path, i, i + 10)])[0]


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_note_on_one_board(tmp_path, method, workers):
    (tmp_path / "x").write_bytes(bytes(range(100)))
    board = Board(workers)
    reading = Reading(str(tmp_path / "x"), board)
    loader = DataLoader(
        reading, batch_size=None, sampler=range(20), num_workers=workers, multiprocessing_context=method
    )
    assert list(loader) == [bytes(range(i, i + 10)) for i in range(20)]
    assert (board.totals().ranges, board.totals().bytes_read) == (20, 200)
