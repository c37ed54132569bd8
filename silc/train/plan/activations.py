"""Bytes of activations that a rank holds for one micro-batch: a model, checked in tests against what autograd keeps.

Counted is what is of the order of tokens, crops, captions or prototypes; position tables, pool queries and the like are
left out. `size` is always the bytes of one number of the forward pass.

On a CPU in fp32 the blocks keep less (`silc.model.layers`): normalised tokens and GELU's results are made again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from silc.config import Config, TextConfig, VisionConfig
from silc.model.dropping import kept_patches
from silc.model.layers import CHUNK_ELEMENTS
from silc.objective import ViewPlan, plan_views

FP32 = 4
# Workspace of the ops, at most: partial sums on Triton or rows of logits in plain torch (64 MiB), and a tile of
# similarities (32 MiB in bf16).
HEAD_WORKSPACE = 64 << 20
TILE = 32 << 20


@dataclass(frozen=True)
class Machine:
    """What activations depend on beside the configuration.

    dtype: of the forward pass. widened: whether a product writes its result in fp32 before it is rounded, as oneDNN
    does in bf16 on a CPU without bf16 instructions.
    """

    dtype: torch.dtype
    cuda: bool
    widened: bool = False

    @classmethod
    def cpu(cls, dtype: torch.dtype) -> Machine:
        """The CPU that this process runs on. Whether it has bf16 instructions only torch's private functions say."""
        emulated = torch.cpu._is_avx512_supported() and not torch.cpu._is_avx512_bf16_supported()
        return cls(dtype, cuda=False, widened=emulated and dtype == torch.bfloat16)

    @property
    def size(self) -> int:
        return self.dtype.itemsize

    @property
    def attends_in_fp32(self) -> bool:
        """Whether attention casts to fp32 and back (`silc.model.attention.sdpa_heads`)."""
        return not self.cuda and self.size < FP32

    @property
    def lean(self) -> bool:
        """Whether the blocks make again what is cheap (`silc.model.layers`)."""
        return not self.cuda and self.dtype == torch.float32


def image_tokens(config: Config, plan: ViewPlan) -> int:
    """Tokens of the student's crops of one image that patch dropout leaves."""
    views, patch = config.views, config.model.vision.patch_size
    patches = (views.global_size // patch) ** 2
    tokens = plan.student_large * kept_patches(patches, config.model.vision.patch_dropout)
    return tokens + (plan.n_local * (views.local_size // patch) ** 2 if plan.n_local else 0)


def kept(config: Config, machine: Machine, micro: int, recompute: bool) -> float:
    """Bytes that wait for the backward pass after the student's forward pass over `micro` pairs. Of a locked tower
    nothing does.
    """
    plan = plan_views(config)
    model, locked = config.model, config.optim.locked
    total = 0.0
    if "vision" not in locked:
        total += _vision(model.vision, machine, plan, micro * image_tokens(config, plan), micro, recompute)
    if "text" not in locked:
        total += _text(model.text, model.vision.width, machine, micro, recompute)
    if config.objective.distill:
        total += _head(config, machine, plan, micro)
    return total


def working(config: Config, machine: Machine, micro: int, share: int, ranks: int, recompute: bool) -> float:
    """Bytes on top of :func:`kept` at the worst moment: one block's pass, the head's loss or the contrastive
    loss over a rank's whole share, whichever is largest. The teacher's pass comes before the student's and needs less.
    """
    plan = plan_views(config)
    size, text = machine.size, config.model.text
    tokens = {"vision": micro * image_tokens(config, plan), "text": micro * text.context_length}
    towers: dict[str, VisionConfig | TextConfig] = {"vision": config.model.vision, "text": text}
    block = 0.0
    for name, tower in towers.items():
        packed, joined = name == "vision", name == "vision" and _resolutions(plan) > 1
        if name in config.optim.locked:
            # The image tower runs first, when nothing is kept yet.
            before = 0.0 if name == "text" else kept(config, machine, micro, recompute)
            block = max(block, _block_forward(tokens[name], tower, machine) - before)
        else:
            one = _block_backward(tokens[name], tower, machine, recompute, packed=packed, joined=joined)
            block = max(block, one)
    head = 0.0
    if config.objective.distill:
        prototypes = config.model.head.prototypes * config.model.head.bottleneck
        # The prototypes' gradient, of the normalised and of the plain weight; in plain torch also fp32 copies of both
        # models' prototypes.
        copies = 0 if machine.cuda or size == FP32 else 2 * FP32 * prototypes
        rows = micro * (plan.n_local + plan.joined + plan.n_global)
        head = min(HEAD_WORKSPACE, FP32 * rows * config.model.head.prototypes) + 2 * FP32 * prototypes + copies
    return max(block, head, _contrastive(config, machine, plan, share, ranks))


def _resolutions(plan: ViewPlan) -> int:
    return int(plan.student_large > 0) + int(plan.n_local > 0)


def _block(
    tokens: float, tower: VisionConfig | TextConfig, machine: Machine, *, packed: bool, joined: bool = False
) -> float:
    """A transformer block over `tokens`.

    packed: the image tower's, which makes again what is cheap where it is lean. joined: attention gives one tensor a
    resolution, and both they and their concatenation are kept.
    """
    width, hidden = tower.width, int(tower.width * tower.mlp_ratio)
    # Kept: the input and the sum after attention (by the norms), queries, keys and values, attention's result, the
    # MLP's wide tensor before GELU; where they are not made again also the normalised tokens, twice, and GELU's result.
    numbers = 6 * width + hidden
    if not (machine.lean and packed):
        numbers += 2 * width
    casts = 0
    if machine.attends_in_fp32:  # its own queries, keys and values in place of the given ones, and its own result
        casts = width * (3 * (FP32 - machine.size) + FP32)
        joined = False  # the parts are rounded copies, and only what they are joined to is kept
    if not machine.lean:
        numbers += hidden + (width if joined else 0)
    # Mean and deviation of two norms, and attention's log-sum-exp a head.
    return tokens * (machine.size * numbers + casts + FP32 * (4 + tower.heads))


def _block_backward(
    tokens: int,
    tower: VisionConfig | TextConfig,
    machine: Machine,
    recompute: bool,
    *,
    packed: bool,
    joined: bool = False,
) -> float:
    """Gradients of the block's output and of the MLP's wide tensor (GELU's result makes room for the second one), and
    with recomputation what the block keeps; on a lean machine also GELU's result of some rows. A widened one holds the
    wide gradient in fp32 as well.
    """
    hidden = int(tower.width * tower.mlp_ratio)
    total: float = machine.size * tokens * (tower.width + hidden)
    if machine.widened:
        total += FP32 * tokens * hidden
    if machine.lean:
        total += FP32 * min(CHUNK_ELEMENTS, tokens * hidden)
    return total + (_block(tokens, tower, machine, packed=packed, joined=joined) if recompute else 0.0)


def _block_forward(tokens: int, tower: VisionConfig | TextConfig, machine: Machine) -> float:
    """A block's forward pass of which nothing is kept, in its MLP: the tower's and the block's input, the sum after
    attention, its normalised form, the MLP's wide tensor, GELU's result (on a lean machine, of some rows) and its own.

    On a widened machine, where it is worse, the moment before: the wide tensor twice, the second time in fp32.
    """
    width, hidden = tower.width, int(tower.width * tower.mlp_ratio)
    activated = min(CHUNK_ELEMENTS, tokens * hidden) if machine.lean else tokens * hidden
    total = machine.size * (tokens * (5 * width + hidden) + activated)
    if machine.widened:
        total = max(total, tokens * (machine.size * (4 * width + hidden) + FP32 * hidden))
    return total


def _vision(vision: VisionConfig, machine: Machine, plan: ViewPlan, tokens: int, micro: int, recompute: bool) -> float:
    size, width, hidden = machine.size, vision.width, int(vision.width * vision.mlp_ratio)
    joined = _resolutions(plan) > 1
    if recompute:
        # A block's input. What makes normalised tokens again (`silc.model.layers.Recipe`) holds the second norm's too.
        blocks: float = vision.depth * size * tokens * width * (2 if machine.lean else 1)
    else:
        blocks = vision.depth * _block(tokens, vision, machine, packed=True, joined=joined)
    crops = micro * (plan.student_large + plan.n_local)
    # Final norm: input, statistics and result. Pool: attention of one query, its averages [crops, heads, D], output
    # projection, norm and MLP of one token.
    last = tokens * (size * (2 * width + vision.heads) + 2 * FP32)
    pool = crops * size * (vision.heads * width + 3 * width + hidden + (0 if machine.lean else hidden))
    return blocks + last + pool


def _text(text: TextConfig, width_out: int, machine: Machine, micro: int, recompute: bool) -> float:
    size, width, hidden = machine.size, text.width, int(text.width * text.mlp_ratio)
    tokens = micro * text.context_length
    # The last block: input, normalised input, keys and values of all tokens; the rest of one.
    attended = FP32 if machine.attends_in_fp32 else size
    last = tokens * (2 * (size + attended) * width + 2 * FP32) + micro * size * (
        4 * width + hidden + (0 if machine.lean else hidden)
    )
    if recompute:
        blocks: float = text.depth * size * tokens * width
    else:
        blocks = (text.depth - 1) * _block(tokens, text, machine, packed=False) + last
    return blocks + micro * size * (2 * width + width_out)


def _head(config: Config, machine: Machine, plan: ViewPlan, micro: int) -> float:
    """MLP of the student's rows, both models' normalised prototypes, and what `distill_head_loss` keeps."""
    head, size, width = config.model.head, machine.size, config.model.vision.width
    rows = micro * (plan.n_local + plan.joined)
    mlp = rows * size * (width + 2 * head.hidden * (head.layers - 1) + 2 * head.bottleneck)
    loss = FP32 * rows * head.bottleneck  # the rows' gradient, found with the loss
    teacher = micro * plan.n_global * size * head.bottleneck
    prototypes = 2 * size * head.prototypes * head.bottleneck
    if not machine.cuda:  # the plain-torch op finds the prototypes' gradient with the loss too
        prototypes += FP32 * head.prototypes * head.bottleneck
    return mlp + loss + teacher + prototypes


def _contrastive(config: Config, machine: Machine, plan: ViewPlan, share: int, ranks: int) -> float:
    """O(n d + chunk d): features of a rank's whole share, gathered slices of all ranks' and one tile."""
    width, size, views = config.model.vision.width, machine.size, len(plan.aligned)
    # A feature as given, as fp32 leaf, normalised in fp32, rounded, and its gradients in the op and in the leaf.
    own = share * (views + 1) * width * (2 * size + 4 * FP32)
    chunk = min(config.objective.contrastive_chunk, share * ranks)
    # Two slices are held, and one slice of gradients is on its way back while the next one is found.
    slices = chunk * width * (2 * size + 2 * FP32)
    return own + slices + FP32 * views * share * ranks + min(TILE, FP32 * share * share * ranks)
