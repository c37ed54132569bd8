"""Where ops run, and where they refuse to: AMD's chips, several GPUs, CUDA graphs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from silc_kernels import crop_resize, patch_embed, photometric
from silc_kernels.common import dispatch, transfer, triton_runtime
from silc_kernels.gate.dry import dry
from silc_kernels.patch_embedding import positions, triton_backend
from silc_kernels.patch_embedding.positions import resize_matrix, resize_positions
from silc_kernels.photometry import triton_backend as photometric_backend

CUDA = torch.device("cuda", 0)
OPS = sorted(dispatch._REGISTRY)
HALF = (0.5, 0.5, 0.5)


@pytest.mark.parametrize("op", OPS)
def test_amds_chips_are_refused_in_words(op, monkeypatch):
    """ROCm's torch calls them CUDA devices; their shared memory is too small for the tiles."""
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(triton_runtime, "INTERPRET", False)
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    with pytest.raises(ValueError, match=f"{op}: backend 'triton'.*made for NVIDIA's chips; this is AMD's"):
        dispatch.choose(op, CUDA, "triton")
    assert dispatch.choose(op, CUDA) is dispatch._REGISTRY[op]["torch"].fn
    (row,) = (row for row in dispatch.report(CUDA) if row.op == op)
    assert row.backend == "torch"
    assert "AMD" in row.reason


def embedding() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Crops of two resolutions, and weight, bias, prefix and tables."""
    crops = [torch.zeros(1, 3, side, side, dtype=torch.uint8) for side in (256, 48)]
    shapes = ((32, 3, 16, 16), (32,), (1, 32), (256, 32), (9, 32))
    return crops, [torch.zeros(shape, requires_grad=True) for shape in shapes]


def embedded(crops, weight, bias, prefix, *tables):
    return patch_embed(crops, weight, bias, tables, mean=HALF, std=HALF, prefix=prefix, out_dtype=torch.bfloat16)


def test_every_launch_is_on_the_device_of_the_tensors(monkeypatch):
    """Whichever GPU is current, in the backward too, which has a thread of its own."""
    current: list[torch.Tensor] = []

    class Current:
        def __init__(self, tensor):
            self.tensor = tensor

        def __enter__(self):
            current.append(self.tensor)

        def __exit__(self, *_):
            current.pop()

    class Watched(list):
        def append(self, launch):
            assert len(current) == 1, launch.kernel
            super().append(launch)

    monkeypatch.setattr(torch.cuda, "device_of", Current)
    with dry(90) as run:
        run.launches = Watched()
        crops, parameters = embedding()
        packed = embedded(crops, *parameters)
        packed.backward(torch.zeros_like(packed))
        jitter(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        crop_resize(
            torch.zeros(48, dtype=torch.uint8),
            *(torch.tensor(x) for x in ([0], [[4, 4]], [0], [[0, 0, 4, 4]])),
            torch.tensor([True]),
            8,
        )
    assert [launch.kernel for launch in run.launches] == [
        *("fold", "project_bulk", "project", "gradient_bulk", "gradient", "unfold"),
        *("greys", "points", "blur_across", "blur_down"),
        *("weigh", "across", "down"),
    ]


def jitter(views: torch.Tensor) -> torch.Tensor:
    return photometric(views, torch.tensor([[1.3, 0.8, 1.1, 0.05, 7, 0, 1.5, 0]]).repeat(len(views), 1), inplace=True)


class NothingFromTheHost(TorchDispatchMode):
    """Refuses what a CUDA graph cannot hold: values read on the host, shapes made of them, tensors made of lists."""

    FORBIDDEN = (
        "_local_scalar_dense",
        "item",
        "nonzero",
        "masked_select",
        "_unique2",
        "lift_fresh",
        "_pin_memory",
        "equal",
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        assert name not in self.FORBIDDEN, function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("width", [32, 20])
def test_a_cuda_graph_can_hold_the_patch_embedding_both_ways(width):
    crops = [torch.zeros(2, 3, side, side, dtype=torch.uint8) for side in (64, 48)]
    shapes = ((width, 3, 16, 16), (width,), (1, width), (16, width), (9, width))
    weight, bias, prefix, *tables = (torch.zeros(shape) for shape in shapes)
    with dry(90) as run, NothingFromTheHost():
        packed = triton_backend.forward(crops, weight, bias, tables, prefix, [*HALF], [*HALF], torch.bfloat16)
        triton_backend.backward(packed, crops, 16, [16, 9], 1, [*HALF], [*HALF], torch.float32)
    assert not run.problems
    with NothingFromTheHost(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        packed.sum().item()


def test_a_cuda_graph_can_hold_the_photometric_list_of_rows_on_the_device():
    views, rows = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 8)
    with dry(90), NothingFromTheHost():
        photometric_backend.distort_(views, rows)


def test_what_a_cuda_graph_cannot_hold_is_tagged():
    patch_embed_ops = [f"patch_embed_{backend}{way}" for backend in ("torch", "triton") for way in ("", "_backward")]
    others = [f"{op}_{backend}" for op in ("photometric", "contrastive") for backend in ("torch", "triton")]
    tagged = {
        name: torch.Tag.cudagraph_unsafe in getattr(torch.ops.silc_kernels, name).default.tags
        for name in (*patch_embed_ops, *others, "resize_positions")
    }
    assert [name for name, unsafe in tagged.items() if unsafe] == [
        *("patch_embed_torch", "patch_embed_torch_backward", "photometric_torch", "contrastive_torch"),
        "resize_positions",
    ]


def test_a_copy_from_the_host_is_refused_during_a_capture(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=r"cannot hold a copy of host memory, here torch.float32 \[3\]"):
        transfer.sent(torch.zeros(3), CUDA)
    with pytest.raises(
        RuntimeError, match=r"resize_positions: from \(4, 4\) to \(2, 5\) is not at hand.*before the capture"
    ):
        resize_matrix((4, 4), (2, 5), CUDA)


def test_position_matrices_are_few_but_for_those_that_graphs_hold(monkeypatch):
    """A CUDA graph holds the address of what it was captured with: no number of other grids may push that out."""
    table, device = torch.zeros(1, 4, 8), torch.device("cpu")
    monkeypatch.setattr(positions, "_capturing", lambda _: True)
    with pytest.raises(RuntimeError, match="before the capture"):
        positions.resize_matrix((2, 2), (777, 1), device)
    monkeypatch.setattr(positions, "_capturing", lambda _: False)
    held, other = (positions.resize_matrix((2, 2), grid, device) for grid in ((3, 3), (5, 3)))
    monkeypatch.setattr(positions, "_capturing", lambda _: True)
    assert positions.resize_matrix((2, 2), (3, 3), device) is held
    monkeypatch.setattr(positions, "_capturing", lambda _: False)
    for rows in range(1, 200):
        resize_positions(table, (2, 2), (rows, 1))
    assert positions.resize_matrix((2, 2), (3, 3), device) is held
    assert positions.resize_matrix((2, 2), (5, 3), device) is not other
    assert len(positions._KEPT) <= positions.MOST_KEPT
