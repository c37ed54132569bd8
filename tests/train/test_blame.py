"""Who is blamed for a step that is not finite, from what every rank found. Planted faults: test_discarded_steps."""

from __future__ import annotations

import pytest
import torch

from silc.train.blame import Fault, Found, judge, not_finite

KEYS = [f"shard/{number}" for number in range(8)]


def of(*ranks: Found, step: int = 120) -> Fault:
    for found in ranks:
        found.samples = len(KEYS) // len(ranks)
    return judge(list(ranks), KEYS, step)


NAN_EVERYWHERE = {"teacher": ["head.mlp.0.weight"], "center": True, "scale": ["logit_scale"]}


@pytest.mark.parametrize(
    ("found", "owner"),
    [
        ({"masters": ["a"], "working": ["b"], **NAN_EVERYWHERE}, "student"),
        ({"working": ["b"], **NAN_EVERYWHERE}, "student"),
        (NAN_EVERYWHERE, "teacher"),
        ({"center": True, "scale": ["logit_scale"]}, "center"),
        ({"scale": ["logit_scale"], "keys": KEYS[:1]}, "scale"),
        ({"keys": KEYS[:1], "losses": ["contrastive loss"], "gradients": [(0, "a")]}, "samples"),
        ({"losses": ["contrastive loss"], "gradients": [(0, "a")]}, "loss"),
        ({"gradients": [(0, "a")]}, "gradient"),
    ],
)
def test_the_first_in_the_order_of_the_computation_is_the_cause(found, owner):
    """Wherever it is: what comes later follows from it, on every rank."""
    alone, second = of(Found(**found)), of(Found(), Found(**found))
    assert (alone.owner, second.owner) == (owner, owner)
    assert "rank" not in alone.words
    assert second.ranks == ([] if owner == "gradient" else [1])


def test_the_ranks_are_named_and_not_too_many():
    bad = [Found(center=rank >= 3) for rank in range(64)]
    fault = of(*bad)
    assert fault.ranks == list(range(3, 64))
    assert fault.words.endswith("on ranks 3, 4, 5, 6, 7, 8, 9, 10 and 53 more")
    assert of(Found(center=True), Found(center=True)).words.endswith("since step 120 on every rank")


def test_weights_are_of_the_step_before_and_a_copy_of_one_rank_is_told_from_them():
    spread = of(Found(masters=["visual.a", "visual.b"], working=["visual.a"]), Found(working=["visual.a"]))
    assert spread.words == "the student's weights are not finite since step 120: visual.a and 1 more on rank 0"
    assert "resume from a checkpoint before it" in spread.way_out
    copy = of(Found(), Found(working=["visual.a"]))
    assert copy.words.startswith(
        "the working copy of the student's weights is not finite since step 120: visual.a on rank 1"
    )
    assert "faulty" in copy.way_out


def test_samples_a_device_and_grown_weights_are_told_apart():
    one = of(Found(keys=["shard/0"]), Found(keys=["shard/5", "shard/6"]))
    assert (one.owner, one.ranks, one.keys) == ("samples", [0, 1], ["shard/0", "shard/5", "shard/6"])
    assert one.words == "the features of 3 samples are not finite on every rank"
    device = of(Found(), Found(keys=KEYS[4:]))
    assert device.words == "the features of every sample on rank 1 are not finite, and of none elsewhere"
    assert "device" in device.way_out
    weights = of(Found(keys=KEYS[:4]), Found(keys=KEYS[4:]))
    assert (weights.owner, weights.keys) == ("features", KEYS)
    assert "grown too large" in weights.way_out


def test_the_gradient_that_went_wrong_first_is_the_last_of_the_model():
    early, late = (0, "visual.a"), (7, "head.z")
    fault = of(Found(gradients=[early, late]), Found(gradients=[(3, "visual.c")]))
    assert fault.words == "the losses are finite, the gradient is not: that of head.z first, of 3 parameters"
    assert fault.keys == KEYS


def test_what_cannot_be_found_again_is_said_and_every_sample_is_kept():
    fault = of(Found(), Found())
    assert fault.words == "a loss or a gradient was not finite, although everything that it came from is"
    assert fault.keys == KEYS


def test_only_the_first_keys_are_shown():
    assert of(Found(center=True)).shown_keys() == ""
    many = Fault("samples", [0], "", "", [f"k{number}" for number in range(100)])
    assert many.shown_keys() == "; samples: k0, k1, k2, k3, k4, k5, k6, k7 and 92 more"
    assert len(Fault("samples", [0], "", "", ["x" * 10_000]).shown_keys()) < 120


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_named_once(bad):
    good, wrong = torch.ones(3), torch.tensor([1.0, bad])
    assert not_finite([("a", good), ("b", wrong), ("b", wrong), ("c", torch.empty(0))]) == ["b"]
