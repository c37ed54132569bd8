"""One optimiser step of SILC, exact under gradient accumulation, and atomic: either everything moves or nothing does.

The contrastive loss needs the features of the whole batch, so its gradient is taken in two parts, whatever the number
of micro-batches:

1. features of every micro-batch (with the graph kept when there is only one; without, to be computed again, when there
   are several);
2. the contrastive loss on those features as leaves: gradients of features, scale and bias, complete before any weight
   sees them;
3. one backward pass a micro-batch, of  sum(feature * its gradient) + w * distillation / micro-batches.

All of it is finite on all ranks, or the surrogate of 3 is multiplied by NaN: the engine then finds non-finite gradients
on every rank and discards the step by itself, without a second code path and without waiting for the device in the good
case. Scale, teacher, center, schedule and counters move only when the engine says that the weights did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

import silc_kernels
from silc.config import Config
from silc.data.batch import Batch
from silc.distributed import all_reduce_mean_, all_reduce_min_
from silc.model.dropping import Dropping
from silc.model.head import DistillInputs
from silc.objective import ViewPlan, contrastive
from silc.teacher import EmaTeacher
from silc.train.blame import Fault, blame
from silc.train.state import TrainState


@dataclass
class Losses:
    """This rank's losses of one step, on the device, unsynchronised.

    contrastive is the global mean, distill this rank's.
    """

    total: Tensor
    contrastive: Tensor
    distill: Tensor | None


@dataclass
class StepReport:
    """What a step did."""

    applied: bool
    lr: float
    losses: Losses
    bottlenecks: list[Tensor] = field(default_factory=list)  # teacher features [T, n, d] of each micro-batch
    fault: Fault | None = None  # why it was not applied


@dataclass
class _Features:
    """Features of one micro-batch: image [n, V, D] and text [n, D] as the student gave them; with distillation its
    loss, and the teacher features [T, n, d] it was taken against.
    """

    image: Tensor
    text: Tensor
    distill: Tensor | None = None
    teacher: Tensor | None = None


class SilcStep:
    """Moves a training state; call it with a batch.

    Args:
        config: the run's.
        plan: which view plays which part.
        state: what moves, counters left out: those are the loop's.
    """

    def __init__(self, config: Config, plan: ViewPlan, state: TrainState) -> None:
        self.config, self.plan, self.state = config, plan, state
        self._pair_weights = plan.pair_weights  # on the CPU: the op reads the values without waiting for the device
        self._drops = config.model.vision.drop_path > 0 or config.model.vision.patch_dropout > 0

    def __call__(self, batch: Batch, *, lr: float, distill: bool) -> StepReport:
        """One step over this rank's whole share of the batch. lr: the rate of this step.

        distill: is the distillation loss on yet.
        """
        engine = self.state.engine
        distill = distill and self.state.teacher is not None
        micros = batch.split(len(batch) // engine.accumulation)
        features = self._features(micros, distill)
        leaves = [_leaf(f) for f in features]
        loss_c = self._contrastive(leaves)
        loss_d: list[Tensor] = []
        bottlenecks: list[Tensor] = []
        applied = False
        for index, (micro, leaf) in enumerate(zip(micros, leaves, strict=True)):
            live = features[index] if len(micros) == 1 else self._forward(micro, distill, features[index])
            gate = self._gate(live, leaf, loss_c)
            engine.backward(gate * self._surrogate(live, leaf, len(micros)))
            applied = engine.step(lr)
            if live.distill is not None and live.teacher is not None:
                loss_d.append(live.distill.detach().float())
                bottlenecks.append(live.teacher)
            features[index] = _Features(live.image.detach(), live.text.detach())
        losses = _total(loss_c.detach(), loss_d, self.config.objective.distill_weight)
        report = StepReport(applied, lr, losses, bottlenecks)
        if applied:
            self._commit(lr, bottlenecks)
        else:
            report.fault = self._blame(micros, features, leaves, report)
        self.state.scale_optimizer.zero_grad()
        return report

    def _features(self, micros: list[Batch], distill: bool) -> list[_Features]:
        if len(micros) == 1:
            return [self._forward(micros[0], distill)]
        with torch.no_grad():
            return [self._forward(micro, distill=False) for micro in micros]

    def _forward(self, micro: Batch, distill: bool, before: _Features | None = None) -> _Features:
        """The student over one micro-batch, with the distillation loss inside so that ZeRO-3 gathers the head's
        weights.

        before: its features of the first pass; those of a locked tower are not computed again.
        """
        plan, objective, teacher = self.plan, self.config.objective, self.state.teacher
        inputs = None
        if distill and teacher is not None:
            inputs = DistillInputs(
                teacher=self._teacher_features(teacher, micro),
                weight=teacher.distilled_head.weight(),
                center=self.state.center,
                student_temp=objective.student_temp,
                teacher_temp=objective.teacher_temp,
                pair_weights=self._pair_weights,
                student_views=plan.joined,
                backend=self.config.kernels.distill,
            )
        locked = () if before is None else self.config.optim.locked
        large = None if "vision" in locked else micro.large[:, : plan.student_large]
        small = micro.small if distill else None
        tokens = None if "text" in locked else micro.tokens
        dropping = Dropping(self.config.train.seed, micro.first) if self._drops else None
        image, text, loss, bottleneck = self.state.engine.forward(large, small, tokens, inputs, dropping)
        if before is not None:
            image, text = before.image if image is None else image, before.text if text is None else text
        return _Features(image, text, loss, bottleneck)

    def _teacher_features(self, teacher: EmaTeacher, micro: Batch) -> Tensor | Callable[[Tensor], Tensor]:
        """Teacher features [T, n, d]; for a head-only EMA, a function that makes them of the student's own features [n,
        V, D].
        """
        views = self.plan.teacher_views
        if teacher.visual is None:
            return lambda pooled: teacher.from_features(pooled[:, views])
        return teacher.bottleneck(micro.large[:, views])

    def _contrastive(self, leaves: list[_Features]) -> Tensor:
        """The contrastive loss over all micro-batches and ranks; leaves gradients in the leaves, the scale and the
        bias.
        """
        image = torch.cat([leaf.image for leaf in leaves])
        text = torch.cat([leaf.text for leaf in leaves])
        scale, bias = self.state.scale.effective()
        dtype = self.state.engine.dtype
        loss = contrastive(image, text, scale, bias, plan=self.plan, config=self.config, dtype=dtype)
        loss.backward()
        for parameter in self.state.scale.parameters():
            all_reduce_mean_(_grad(parameter))
        return loss

    def _surrogate(self, live: _Features, leaf: _Features, micros: int) -> Tensor:
        """A scalar whose gradient is this micro-batch's part of the objective's."""
        total = (live.image.float() * _grad(leaf.image)).sum() + (live.text.float() * _grad(leaf.text)).sum()
        if live.distill is not None:
            total = total + live.distill.float() * (self.config.objective.distill_weight / micros)
        return total

    def _gate(self, live: _Features, leaf: _Features, loss_c: Tensor) -> Tensor:
        """1 when losses and feature gradients are finite on every rank, else NaN."""
        checks = [
            loss_c.detach(),
            _grad(leaf.image).sum(),
            _grad(leaf.text).sum(),
            *(_grad(p).sum() for p in self.state.scale.parameters()),
        ]
        if live.distill is not None:
            checks.append(live.distill.detach())
        finite = torch.stack([c.float().reshape(()) for c in checks]).isfinite().all().float()
        return torch.where(all_reduce_min_(finite) > 0, 1.0, torch.nan)

    def _commit(self, lr: float, bottlenecks: list[Tensor]) -> None:
        """Everything that follows the weights.

        The center sees the teacher that made the outputs, so it moves before the teacher.
        """
        state = self.state
        for group in state.scale_optimizer.param_groups:
            group["lr"] = lr * self.config.optim.scale_lr
        state.scale_optimizer.step()
        state.scale.limit_()
        if bottlenecks and state.teacher is not None:
            mean = torch.stack([features.float().mean((0, 1)) for features in bottlenecks]).mean(0)
            weight = state.teacher.distilled_head.weight().float()
            momentum = self.config.objective.center_momentum
            state.center.copy_(silc_kernels.center_update(state.center, mean, weight, momentum=momentum))
        # Before distillation starts there is nothing to average: it starts from the student then.
        if state.teacher is not None and (bottlenecks or not self.config.objective.distill):
            state.teacher.update(self.config.ema_momentum)

    def _blame(
        self, micros: list[Batch], features: list[_Features], leaves: list[_Features], report: StepReport
    ) -> Fault:
        """Whose fault it is that something was not finite (collective)."""
        own = [torch.cat([f.image.flatten(1), f.text], 1) for f in features]
        for index, teacher in enumerate(report.bottlenecks):
            own[index] = torch.cat([own[index], teacher.transpose(0, 1).flatten(1)], 1)
        losses = {"contrastive loss": report.losses.contrastive}
        if report.losses.distill is not None:
            losses["distillation loss"] = report.losses.distill
        grads = [_grad(tensor).sum() for leaf in leaves for tensor in (leaf.image, leaf.text)]
        grads += [_grad(parameter).sum() for parameter in self.state.scale.parameters()]
        losses["gradient of the contrastive loss"] = torch.stack([grad.float().reshape(()) for grad in grads])
        return blame(self.state, micros, own, losses, distill=report.losses.distill is not None)


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None, "the contrastive loss was not taken backward"
    return tensor.grad


def _leaf(features: _Features) -> _Features:
    return _Features(features.image.detach().float().requires_grad_(), features.text.detach().float().requires_grad_())


def _total(contrastive_loss: Tensor, distill: list[Tensor], weight: float) -> Losses:
    if not distill:
        return Losses(contrastive_loss, contrastive_loss, None)
    mean = torch.stack(distill).mean()
    return Losses(contrastive_loss + weight * mean, contrastive_loss, mean)
