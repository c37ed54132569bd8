"""SILC trained by a plain torch loop: one process, the whole batch, logits written out, peers' losses and optimiser.

It shares the towers with the project and nothing else: each resolution is a call of its own, the losses are open_clip's
and DINO's published formula, the optimiser is torch.optim.AdamW, and the average and the center are one line each.
"""

from __future__ import annotations

import copy
import math
import re
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn

from silc.config import Config
from silc.data.batch import Batch
from silc.model import SilcModel
from silc.model.dropping import Drawn, Dropping
from tests.train.cases import first_model, global_batch


@dataclass
class Trajectory:
    """What a run leaves: its state by name, and a row of numbers for each step."""

    state: dict[str, Tensor]
    rows: list[dict[str, float]] = field(default_factory=list)


class PlainLoop:
    """The model, its teacher, center and scale, and one optimiser each for weights and scale."""

    def __init__(self, run: Config) -> None:
        self.run, objective = run, run.objective
        self.model: SilcModel = first_model(run)
        self.locked = tuple({"vision": "visual.", "text": "text."}[tower] for tower in run.optim.locked)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(self.locked))
        self.teacher_visual = copy.deepcopy(self.model.visual).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.model.head)
        if self.teacher_head is not None:
            self.teacher_head.requires_grad_(False)
        self.center = torch.zeros(run.model.head.prototypes)
        sigmoid = objective.contrastive == "sigmoid"
        first = objective.init_scale or (10.0 if sigmoid else 1 / 0.07)
        self.log_scale = nn.Parameter(torch.tensor([math.log(first)]))
        self.bias = nn.Parameter(torch.tensor([-10.0])) if sigmoid else None
        self.loss = SigLipLoss() if sigmoid else ClipLoss()
        options = {"lr": 0.0, "betas": (run.optim.beta1, run.optim.beta2), "eps": run.optim.eps}
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW([self._group(n, p) for n, p in trained], **options)
        scalars = [self.log_scale] if self.bias is None else [self.log_scale, self.bias]
        self.scale_optimizer = torch.optim.AdamW(scalars, weight_decay=0.0, **options)

    def _group(self, name: str, parameter: nn.Parameter) -> dict:
        """Matrices decay; vectors and tables do not; what the rules of the run name does as they say."""
        table = name.endswith(("pos_embed", "positional_embedding", "latent"))
        decay, lr = (0.0 if parameter.ndim < 2 or table else self.run.optim.weight_decay), 1.0
        if self.locked:
            lr = self._layer_share(name)
            if self.run.optim.rules and "mlp.fc1.weight" in name:
                decay, lr = 2 * self.run.optim.weight_decay, 0.5 * lr
        elif self.run.optim.rules and name.startswith("text."):
            decay, lr = 0.0, 0.5
        elif self.run.optim.rules and "mlp.fc1.weight" in name:
            decay = 2 * self.run.optim.weight_decay
        return {"params": [parameter], "weight_decay": decay, "share": lr}

    def _layer_share(self, name: str) -> float:
        """Of the variants with a locked tower, each with two blocks in the other one: 1 behind these."""
        if name.startswith("head."):
            return 1.0
        decay = self.run.optim.vision_layer_decay if name.startswith("visual.") else self.run.optim.text_layer_decay
        if "embed" in name:
            return decay**3
        block = re.search(r"blocks\.([01])\.", name)
        return 1.0 if block is None else decay ** (2 - int(block.group(1)))

    def rate(self, step: int) -> float:
        """Warm-up over 4 steps, then what the run's schedule says, for 20 steps in all."""
        peak, after = self.run.optim.lr, step - 4
        if after < 0:
            return peak * (step + 1) / 4
        if self.run.optim.schedule == "cosine":
            return peak * (0.1 + 0.9 * (1 + math.cos(math.pi * after / 16)) / 2)
        cool = min(1.0, (20 - step) / 5)
        return peak * cool * ((1 + after / 10) ** -0.5 if self.run.optim.schedule == "rsqrt" else 1.0)

    def images(
        self, crops: Tensor, tower: nn.Module, number: int | None = None, first: int = 0, whole: bool = True
    ) -> list[Tensor]:
        """Features [B, D] of each view, a call of the tower each.

        number: of the student's step, which leaves parts out; first: number of the first view; whole: of local crops.
        """
        found = []
        for view, crop in enumerate(crops.unbind(1), first):
            drawn = None
            if number is not None:
                keys = Dropping(self.run.train.seed, number * len(crop)).keys(len(crop), range(view, view + 1), "cpu")
                drawn = [Drawn(keys, whole)]
            found += tower([crop.contiguous()], drawn)
        return found

    def contrastive(self, views: list[Tensor], text: Tensor) -> Tensor:
        """Mean over views of the peer's loss over the whole batch."""
        text = F.normalize(text, dim=-1)
        scalars = [self.log_scale.exp()] if self.bias is None else [self.log_scale.exp(), self.bias]
        return sum(self.loss(F.normalize(v, dim=-1), text, *scalars) for v in views) / len(views)

    def logits(self, features: Tensor, head: nn.Module) -> Tensor:
        """[B, K], as DINO's head gives them."""
        return F.normalize(head.mlp(features), dim=-1) @ F.normalize(head.last_layer.weight, dim=-1).T

    def distillation(self, students: list[Tensor], teachers: list[Tensor], first_global: int) -> Tensor:
        """DINO's cross-entropy, mean over all pairs but those of a crop with itself."""
        objective, terms = self.run.objective, []
        for t, teacher in enumerate(teachers):
            target = F.softmax((teacher - self.center) / objective.teacher_temp, dim=-1)
            for s, student in enumerate(students):
                if s != first_global + t:
                    log_p = F.log_softmax(student / objective.student_temp, dim=-1)
                    terms.append((-target * log_p).sum(-1).mean())
        return sum(terms) / len(terms)

    def step(self, batch: Batch, number: int) -> dict[str, float]:
        """One step; returns the row a run logs for it."""
        run, model, objective = self.run, self.model, self.run.objective
        distill = objective.distill and number >= round(objective.distill_start * run.train.steps)
        if number and distill and number == round(objective.distill_start * run.train.steps):
            self.follow(0.0)
        dropped = number if run.model.vision.drop_path or run.model.vision.patch_dropout else None
        large = self.images(batch.large, model.visual, dropped, whole=False)
        loss = contrastive = self.contrastive(large, model.text(batch.tokens))
        row = {"loss_contrastive": contrastive.item()}
        if distill:
            students = self.images(batch.small, model.visual, dropped, len(large))
            first_global = len(students)
            if objective.global_to_global:
                students += large[run.n_original :]
            with torch.no_grad():
                globals_ = large[run.n_original :]
                if not objective.head_only_ema:
                    globals_ = self.images(batch.large[:, run.n_original :], self.teacher_visual)
                teachers = [self.logits(view, self.teacher_head) for view in globals_]
                bottlenecks = torch.cat([F.normalize(self.teacher_head.mlp(view), dim=-1) for view in globals_])
            distillation = self.distillation([self.logits(s, model.head) for s in students], teachers, first_global)
            loss = loss + objective.distill_weight * distillation
            row["loss_distill"] = distillation.item()
        loss.backward()
        row |= {"loss": loss.item(), "grad_norm": self.move(number)}
        if distill:
            self.center = 0.9 * self.center + 0.1 * torch.cat(teachers).mean(0)
            self.follow(objective.ema_momentum)
            row |= self.monitors(bottlenecks)
        return row | {"logit_scale": self.log_scale.exp().item()}

    @torch.no_grad()
    def monitors(self, bottlenecks: Tensor) -> dict[str, float]:
        """Entropy and spread of the teacher's outputs over the whole batch, by its last layer after the step."""
        weight = F.normalize(self.teacher_head.last_layer.weight, dim=-1)
        p = F.softmax((bottlenecks @ weight.T - self.center) / self.run.objective.teacher_temp, dim=-1)
        entropy = torch.distributions.Categorical(probs=p).entropy().mean().item()
        spread = bottlenecks.var(0, correction=0).sqrt().mean().item()
        return {"teacher_entropy": entropy, "feature_std": spread, "teacher_kl_uniform": math.log(p.shape[1]) - entropy}

    def move(self, number: int) -> float:
        """Clip, step both optimisers, keep the scale below its limit. Returns the norm before clipping."""
        rate, optim = self.rate(number), self.run.optim
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        for parameter in parameters:  # as ZeRO has it: an unused parameter has a gradient of zero, and so decays
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm = nn.utils.clip_grad_norm_(parameters, optim.clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        for group in self.scale_optimizer.param_groups:
            group["lr"] = rate * optim.scale_lr
        for optimizer in (self.optimizer, self.scale_optimizer):
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(self.run.objective.max_scale))
        return norm.item()

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """F_T <- momentum F_T + (1 - momentum) F."""
        pairs = [(self.teacher_visual, self.model.visual), (self.teacher_head, self.model.head)]
        for teacher, student in pairs:
            for mean, weight in zip(teacher.parameters(), student.parameters(), strict=True):
                mean.copy_(momentum * mean + (1 - momentum) * weight)


def train(run: Config) -> Trajectory:
    """All steps of a run."""
    loop = PlainLoop(run)
    rows = [loop.step(global_batch(run, number), number) for number in range(run.train.steps)]
    state = {f"student.{n}": p.detach() for n, p in loop.model.named_parameters()}
    if run.objective.distill and not run.objective.head_only_ema:
        state |= {f"teacher.visual.{n}": p for n, p in loop.teacher_visual.named_parameters()}
    if run.objective.distill:
        state |= {f"teacher.head.{n}": p for n, p in loop.teacher_head.named_parameters()}
    state |= {"center": loop.center, "scale.logit_scale": loop.log_scale.detach()}
    if loop.bias is not None:
        state["scale.logit_bias"] = loop.bias.detach()
    return Trajectory(state, rows)
