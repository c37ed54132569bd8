"""The contrastive loss as it is written in the papers: one process, the whole matrix of similarities, any dtype.

To read, and to test against; the op computes the same in less time and memory, and over ranks.
"""

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None, *, kind: str = "softmax"
) -> Tensor:
    """CLIP's "softmax" or SigLIP's "sigmoid". image [B, d], or [V, B, d] for the mean over V views; text [B, d]."""
    bias = 0 if logit_bias is None else logit_bias
    similarities = logit_scale * image @ text.t() + bias
    if kind == "softmax":
        of_rows, of_columns = (similarities.log_softmax(dim).diagonal(dim1=-2, dim2=-1) for dim in (-1, -2))
        return -(of_rows + of_columns).mean() / 2
    signs = 2 * torch.eye(len(text), dtype=similarities.dtype, device=similarities.device) - 1
    return -functional.logsigmoid(signs * similarities).sum(-1).mean()
