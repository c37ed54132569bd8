"""Parameter groups, and which AdamW is chosen when."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from silc.config import OptimConfig, ParameterRule
from silc.train.optim import build_optimizer, frozen, parameter_groups, set_learning_rate
from tests.train import cases

CPU = torch.device("cpu")


def grouped(optim: OptimConfig) -> dict[str, tuple[float, float]]:
    """(lr multiplier, weight decay) by parameter name."""
    model = cases.first_model(cases.config())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model.named_parameters(), optim)
    found = {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(names)
    return found


def test_matrices_decay_and_vectors_and_tables_do_not() -> None:
    found = grouped(OptimConfig(weight_decay=0.1))
    decayed = ["visual.trunk.patch_embed.proj.weight", "visual.trunk.blocks.0.attn.qkv.weight", "head.mlp.0.weight"]
    decayed += ["head.last_layer.weight", "text.token_embedding.weight", "text.text_projection.weight"]
    kept = ["visual.trunk.blocks.0.attn.qkv.bias", "visual.trunk.norm.weight", "visual.trunk.pos_embed"]
    kept += ["text.positional_embedding", "visual.trunk.attn_pool.latent", "text.ln_final.weight"]
    assert [found[name] for name in decayed] == [(1.0, 0.1)] * len(decayed)
    assert [found[name] for name in kept] == [(1.0, 0.0)] * len(kept)


def test_the_first_rule_that_matches_holds() -> None:
    rules = [
        ParameterRule(pattern=r"^text\..*bias$", lr=0.5, weight_decay=3.0),
        ParameterRule(pattern=r"^text\.", lr=0.25, weight_decay=0.0),
    ]
    found = grouped(OptimConfig(weight_decay=0.1, rules=rules))
    assert found["text.ln_final.bias"] == (0.5, pytest.approx(0.3))
    assert found["text.token_embedding.weight"] == (0.25, 0.0)
    assert found["head.mlp.0.weight"] == (1.0, 0.1)


@pytest.mark.parametrize("patterns", [["txet"], [r"^text\.", r"^text\.ln_final"]])
def test_a_rule_without_a_parameter_is_a_mistake(patterns: list[str]) -> None:
    """It matches nothing, or an earlier rule takes all that it matches."""
    rules = [ParameterRule(pattern=pattern, lr=0.5) for pattern in patterns]
    with pytest.raises(ValueError, match="match no parameter") as error:
        grouped(OptimConfig(rules=rules))
    assert repr(patterns[-1]) in str(error.value)


def frozen_by(*rules: ParameterRule) -> str | None:
    return frozen(cases.first_model(cases.config()).named_parameters(), OptimConfig(rules=list(rules)))


def test_what_is_frozen_is_counted_by_the_first_rule_that_matches() -> None:
    model = cases.first_model(cases.config())
    total = sum(parameter.numel() for parameter in model.parameters())
    text = {name: parameter.numel() for name, parameter in model.named_parameters() if name.startswith("text.")}
    rules = [ParameterRule(pattern=r"^text\.ln_final", lr=0.5), ParameterRule(pattern=r"^text\.", lr=0.0)]
    still = sum(size for name, size in text.items() if not name.startswith("text.ln_final"))
    assert frozen_by(*rules) == rf"frozen {still:,} of {total:,} weights (optim.rules '^text\.')"
    assert frozen_by(rules[0]) is None
    assert frozen_by() is None


def test_a_model_frozen_as_a_whole_is_a_mistake() -> None:
    rules = [ParameterRule(pattern="^visual", lr=0.0), ParameterRule(pattern=".", lr=0.0)]
    with pytest.raises(ValueError, match=r"optim\.rules: '\^visual', '\.' with lr: 0 freeze all"):
        frozen_by(*rules)


def test_set_learning_rate_gives_each_group_its_share() -> None:
    groups = [{"lr_scale": 1.0, "lr": 0.0}, {"lr_scale": 0.5, "lr": 0.0}]
    set_learning_rate(groups, 4.0)
    assert [group["lr"] for group in groups] == [4.0, 2.0]


def build(kind: str, device: torch.device = CPU) -> tuple[torch.optim.Optimizer, str]:
    optim = OptimConfig(optimizer=kind, beta1=0.8, beta2=0.9, eps=1e-5, lr=0.5)
    return build_optimizer(parameter_groups(nn.Linear(2, 2).named_parameters(), optim), optim, device)


@pytest.mark.parametrize("kind", ["auto", "torch_adamw"])
def test_torch_adamw_with_the_given_numbers(kind: str) -> None:
    optimizer, reason = build(kind)
    assert type(optimizer) is torch.optim.AdamW
    assert reason.startswith("torch_adamw: ")
    group = optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["lr"], group["fused"]) == ((0.8, 0.9), 1e-5, 0.5, True)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a package called `apex` on the path, from its files."""

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / "apex" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "apex"]:
        del sys.modules[name]


NVIDIA = {
    "__init__.py": "",
    "optimizers/__init__.py": "import torch\nclass FusedAdam(torch.optim.AdamW):\n"
    "    def __init__(self, groups, adam_w_mode, **options):\n        super().__init__(groups, **options)\n",
    "multi_tensor_apply/__init__.py": "class multi_tensor_applier:\n    available = True\n",
}
UNBUILT = NVIDIA | {"multi_tensor_apply/__init__.py": "class multi_tensor_applier:\n    available = False\n"}
STRANGERS = {
    "empty": {"__init__.py": ""},
    "old": {"__init__.py": "print 'for Python 2'\n", "models.py": ""},
    "other": {"__init__.py": "", "optimizers/__init__.py": "", "multi_tensor_apply/__init__.py": ""},
    "broken": {"__init__.py": "import a_toolkit_that_is_not_there\n", "optimizers/__init__.py": ""},
    "unbuilt": UNBUILT,
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_an_apex_that_will_not_do_is_passed_over_or_refused(install, stranger: str) -> None:
    """Another package of that name, or NVIDIA's without its extensions: as good as none."""
    install(STRANGERS[stranger])
    optimizer, reason = build("auto", torch.device("cuda"))
    assert type(optimizer) is torch.optim.AdamW
    assert "apex" in reason
    with pytest.raises(ValueError, match=r"optim\.optimizer=apex_adamw: .*apex.*; take optim\.optimizer=auto"):
        build("apex_adamw", torch.device("cuda"))


def test_without_apex_asking_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"optim\.optimizer=apex_adamw: NVIDIA apex is not installed"):
        build("apex_adamw")


def test_nvidia_apex_serves_on_cuda_alone(install) -> None:
    install(NVIDIA)
    for kind in ("auto", "apex_adamw"):
        optimizer, reason = build(kind, torch.device("cuda"))
        assert type(optimizer).__name__ == "FusedAdam"
        assert reason.startswith("apex_adamw: ")
        assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert type(build("auto")[0]) is torch.optim.AdamW
    with pytest.raises(ValueError, match="it runs on CUDA alone"):
        build("apex_adamw")
