"""Small tensors that the host makes for a kernel, on their way to the device."""

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device, without a wait; one that is on the device already, as it is.

    A copy from pageable memory may wait for all that the GPU has queued.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
