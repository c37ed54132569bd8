"""Launch configurations of patch_embed: what ships, what is worth trying, both looked up at each launch."""

import torch

from silc_kernels.common import triton_runtime as runtime
from silc_kernels.gate import gate
from silc_kernels.patch_embedding.triton_gate import PRECISIONS, candidates
from silc_kernels.patch_embedding.triton_launch import SHIPPED, TRIALS, LaunchConfig, launch_config, variant


def test_trials_are_alternatives_to_what_ships():
    for key, trials in TRIALS.items():
        assert len({SHIPPED[key], *trials}) == 1 + len(trials)
        kernel, precision, architecture = key
        for config in trials:
            built = list(candidates(key, config, PRECISIONS[precision][0]))
            assert built
            assert all(kernel.removesuffix(" narrow") in candidate.name for candidate in built)
            assert all(candidate.architectures == (architecture,) for candidate in built)
            assert all(candidate.num_warps == config.num_warps for candidate in built)


def test_a_trial_compiles_as_what_ships_must():
    key = ("project", "half", 90)
    for candidate in candidates(key, TRIALS[key][0], torch.bfloat16):
        assert not gate.faults(candidate, gate.build(candidate, 90))


def test_a_configuration_put_into_the_table_is_used_at_the_next_launch(monkeypatch):
    device, config = torch.device("cpu"), LaunchConfig(16, 16, 16, 4, 1)
    for capability, architecture in ((80, 80), (89, 80), (90, 90), (100, 100), (103, 100), (120, 80)):
        monkeypatch.setattr(runtime, "capability", lambda device, found=capability: found)
        assert launch_config("project", device, torch.bfloat16, 16) is SHIPPED["project", "half", architecture]
        assert (
            launch_config("gradient", device, torch.float32, 14) is SHIPPED["gradient narrow", "single", architecture]
        )
        monkeypatch.setitem(SHIPPED, ("project narrow", "half", architecture), config)
        assert launch_config("project", device, torch.float16, 8) is config


def test_crops_that_take_more_registers_get_smaller_tiles():
    assert [variant("project", patch) for patch in (16, 32, 14, 20)] == ["project"] * 2 + ["project narrow"] * 2
    assert [variant("gradient", patch) for patch in (16, 20, 14)] == ["gradient"] * 2 + ["gradient narrow"]
    assert variant("project", 16, scattered=True) == "project narrow"
    assert variant("gradient", 14, floats=True) == "gradient"
