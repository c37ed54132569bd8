"""The plans of contrastive_loss over the kernels: two processes over gloo in the interpreter, else one for each GPU."""

import torch
import torch.multiprocessing as mp

from tests.kernels.contrastive.worker import work_in_triton


def test_processes_find_what_the_reference_finds(device, tmp_path):
    size, backend = (torch.cuda.device_count(), "nccl") if device.type == "cuda" else (2, "gloo")
    queue = mp.get_context("spawn").Queue()
    arguments = size, backend, str(tmp_path / "store"), queue
    spawned = mp.spawn(work_in_triton, arguments, nprocs=size, join=False, start_method="spawn")
    results = dict(queue.get(timeout=240) for _ in range(size))
    for process in spawned.processes:
        process.join(30)
    assert results == dict.fromkeys(range(size))
