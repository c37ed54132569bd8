"""The naive formulas against the papers' equations element by element, and against other packages."""

from pathlib import Path

import pytest
import torch
from lightly.loss import DINOLoss
from open_clip.loss import ClipLoss, SigLipLoss
from timm.layers import PatchEmbed
from torch.nn import functional

from silc_kernels.contrastive import naive as contrastive
from silc_kernels.distill import naive as distill
from silc_kernels.patch_embedding import naive as patches
from tests.kernels.oracles import normal, unit
from tests.kernels.patch_embedding.problems import IMAGENET, PLAIN, cut, identity, pixels, problem

TEMPS = {"student_temp": 0.1, "teacher_temp": 0.04}


@pytest.mark.parametrize("weighted", [False, True])
def test_distill_loss_is_dinos_formula_pair_by_pair(weighted):
    """H(P_t, P_s) = -sum P_t log P_s, averaged over samples, weighted over pairs (DINO, eqs. 1 to 3)."""
    student, teacher, center = normal(3, 5, 7), normal(2, 5, 7, seed=1), normal(7, seed=2)
    weights = normal(3, 2, seed=3).abs() if weighted else torch.ones(3, 2, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for s, own in enumerate(student):
        for t, other in enumerate(teacher):
            target = functional.softmax((other - center) / 0.04, dim=-1)
            entropy = -(target * functional.log_softmax(own / 0.1, dim=-1)).sum(-1)
            expected += weights[s, t] * entropy.mean()
    actual = distill.distill_loss(student, teacher, center, pair_weights=weights if weighted else None, **TEMPS)
    torch.testing.assert_close(actual, expected / weights.sum())


def test_distill_losses_equal_lightly():
    student, teacher, center = unit(4, 6, 8), unit(2, 6, 8, seed=1), 0.1 * normal(9, seed=2)
    weight, teacher_weight = unit(9, 8, seed=3), unit(9, 8, seed=4)
    peer = DINOLoss(output_dim=9, teacher_temp=0.04, student_temp=0.1)
    peer.center.data = center.view(1, 1, 9).clone()
    expected = peer(list(teacher @ teacher_weight.T), list(student @ weight.T))
    pairs = torch.ones(4, 2).fill_diagonal_(0)  # lightly leaves out the pairs of equal index
    actual = distill.distill_head_loss(student, teacher, weight, teacher_weight, center, pair_weights=pairs, **TEMPS)
    torch.testing.assert_close(actual, expected)
    # Its center after the call: of all the teacher's logits.
    updated = distill.center_update(center, teacher @ teacher_weight.T, momentum=0.9)
    torch.testing.assert_close(updated, peer.center.flatten())


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_contrastive_loss_equals_open_clip(kind):
    image, text = unit(2, 12, 8, seed=1), unit(12, 8, seed=2)
    scale, bias = torch.tensor([9.0], dtype=torch.float64), torch.tensor([-3.0], dtype=torch.float64)
    peers = {
        "softmax": lambda view: ClipLoss()(view, text, scale),
        "sigmoid": lambda view: SigLipLoss()(view, text, scale, bias),
    }
    each = [peers[kind](view) for view in image]
    for view, expected in zip(image, each, strict=True):
        torch.testing.assert_close(contrastive.contrastive_loss(view, text, scale, bias, kind=kind), expected)
    both = contrastive.contrastive_loss(image, text, scale, bias, kind=kind)
    torch.testing.assert_close(both, torch.stack(each).mean())


def test_contrastive_softmax_is_the_cross_entropy_of_rows_and_columns():
    image, text, scale = unit(5, 4, seed=1), unit(5, 4, seed=2), torch.tensor(7.0, dtype=torch.float64)
    similarities, labels = scale * image @ text.T, torch.arange(5)
    expected = (functional.cross_entropy(similarities, labels) + functional.cross_entropy(similarities.T, labels)) / 2
    torch.testing.assert_close(contrastive.contrastive_loss(image, text, scale), expected)


def test_patch_embed_equals_timm_and_moves_every_byte():
    crops, weight, bias, tables, before = problem([(2, 32, 16), (3, 8, 8)], 8, 12, prefix=2)
    rows = []
    for crop, table in zip(crops, tables, strict=True):
        mean, std = (torch.tensor(IMAGENET[name], dtype=torch.float64).view(3, 1, 1) for name in ("mean", "std"))
        peer = PatchEmbed(tuple(crop.shape[-2:]), 8, 3, 12).double()
        peer.proj.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        for tokens in peer((crop.double() / 255 - mean) / std) + table:
            rows += [before, tokens]
    torch.testing.assert_close(
        patches.patch_embed(crops, weight, bias, tables, **IMAGENET, prefix=before), torch.cat(rows)
    )
    crop, kernel = pixels(2, 3, 16, 8), identity(8, torch.float64)
    zeros = torch.zeros(2, 192, dtype=torch.float64)
    moved = patches.patch_embed([crop], kernel, zeros[0], [zeros], **PLAIN)
    assert torch.equal(moved.round(), cut(crop, 8).double())


def test_the_readme_quotes_the_formulas():
    package = Path(distill.__file__).parents[1]
    text = (package.parent / "README.md").read_text()
    for folder, lines in (("distill", 4), ("contrastive", 4), ("patch_embedding", 2)):
        source = (package / folder / "naive.py").read_text().replace("torch.", "").replace("functional.", "")
        _, _, rest = text.partition(f"([naive.py](silc_kernels/{folder}/naive.py)):\n\n")
        quoted = [line.strip().split("   ")[0] for line in rest.split("\n\n")[0].splitlines()]
        assert len(quoted) == lines
        assert all(line in source for line in quoted), folder
