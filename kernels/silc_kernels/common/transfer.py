"""Small tensors that the host makes for a kernel, on their way to the device."""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device, without a wait; one that is on the device already, as it is.

    A copy from pageable memory may wait for all that the GPU has queued.

    Raises:
        RuntimeError: a CUDA graph is being captured. At each replay it would read host memory that is others' by then.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor if tensor.device == device else tensor.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"a CUDA graph cannot hold a copy of host memory, here {tensor.dtype} {list(tensor.shape)}: give the "
            "tensor on the GPU, or call the op before the capture"
        )
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
