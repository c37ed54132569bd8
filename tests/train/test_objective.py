"""Which view plays which part, and the monitors of collapse."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, SigLipLoss

from silc.objective import contrastive, plan_views, teacher_statistics
from tests.train import cases

# contrastive_views, distill, global_to_global -> (large views, student's large views, aligned, joined); 2 global crops
PLANS = {
    ("each_global", True, False): (2, 2, (0, 1), 0),
    ("each_global", True, True): (2, 2, (0, 1), 2),
    ("each_global", False, False): (2, 2, (0, 1), 0),
    ("each_global", False, True): (2, 2, (0, 1), 0),
    ("original", True, False): (3, 1, (0,), 0),
    ("original", True, True): (3, 3, (0,), 2),
    ("original", False, False): (3, 1, (0,), 0),
    ("original_and_globals", True, False): (3, 3, (0, 1, 2), 0),
    ("original_and_globals", True, True): (3, 3, (0, 1, 2), 2),
    ("original_and_globals", False, False): (3, 3, (0, 1, 2), 0),
}


def run(**objective):
    config = cases.config()
    for name, value in objective.items():
        setattr(config.objective, name, value)
    return config


@pytest.mark.parametrize("mode", PLANS)
def test_plan_of_every_mode(mode: tuple[str, bool, bool]) -> None:
    views, distill, cross = mode
    plan = plan_views(run(contrastive_views=views, distill=distill, global_to_global=cross))
    assert (plan.n_large, plan.student_large, plan.aligned, plan.joined) == PLANS[mode]
    assert (plan.n_global, plan.n_local) == (2, 3)
    assert list(range(3))[plan.teacher_views] == ([0, 1] if views == "each_global" else [1, 2])
    if plan.joined:
        # Local crops with every teacher view; a global crop with every one but itself.
        assert plan.pair_weights.tolist() == [[1, 1]] * 3 + [[0, 1], [1, 0]]
    else:
        assert plan.pair_weights is None


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("views", ["each_global", "original", "original_and_globals"])
def test_contrastive_is_the_mean_of_a_peers_loss_over_the_aligned_views(kind: str, views: str) -> None:
    config = run(contrastive=kind, contrastive_views=views)
    plan = plan_views(config)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(5, plan.student_large, 7, generator=generator)
    text = torch.randn(5, 7, generator=generator)
    scale, bias = torch.tensor([8.0]), torch.tensor([-3.0]) if kind == "sigmoid" else None
    found = contrastive(image, text, scale, bias, plan=plan, config=config, dtype=torch.float32)
    peer = ClipLoss() if kind == "softmax" else SigLipLoss()
    scalars = (scale,) if bias is None else (scale, bias)
    each = [peer(F.normalize(image[:, v], dim=-1), F.normalize(text, dim=-1), *scalars) for v in plan.aligned]
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_monitors_at_both_ends_of_collapse() -> None:
    """A one-hot teacher has entropy 0, a uniform one log K; the center counts."""
    prototypes = torch.eye(4)
    one_hot = F.one_hot(torch.tensor([0, 1, 2, 3, 0, 1]), 4).float().view(2, 3, 4)
    zero, log_k = torch.zeros(4), math.log(4)
    found = teacher_statistics(one_hot, prototypes, zero, 1e-3)
    assert found["teacher_entropy"] == pytest.approx(0.0, abs=1e-6)
    assert found["teacher_kl_uniform"] == pytest.approx(log_k)
    centered = teacher_statistics(one_hot[:1, :1], prototypes, torch.tensor([1.0, 0, 0, 0]), 1e-3)
    assert centered["teacher_entropy"] == pytest.approx(log_k)
    uniform = teacher_statistics(torch.full((1, 3, 4), 0.5), prototypes, zero, 1e-3)
    assert uniform["teacher_entropy"] == pytest.approx(log_k)
    assert uniform["teacher_kl_uniform"] == pytest.approx(0.0, abs=1e-6)
    assert uniform["feature_std"] == 0.0


def test_feature_std_of_spread_features_is_one_over_sqrt_width() -> None:
    features = F.normalize(torch.randn(1, 4000, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
    found = teacher_statistics(features, torch.eye(16), torch.zeros(16), 0.1, rows=4000)
    assert found["feature_std"] == pytest.approx(0.25, rel=0.02)


def test_monitors_look_at_few_rows_spread_over_views_and_samples() -> None:
    features = torch.full((2, 4, 3), torch.nan)
    features[:, ::2] = torch.arange(4.0).view(2, 2, 1)  # every second output; 0, 1, 2, 3 has variance 5/4
    found = teacher_statistics(features, torch.eye(3), torch.zeros(3), 1.0, rows=4)
    assert found["feature_std"] == pytest.approx(math.sqrt(5 / 4))
