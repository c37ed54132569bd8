"""From a configuration to the first step: what is refused before anything is read or allocated."""

from __future__ import annotations

import pytest
import torch

from silc.config import Config
from silc.distributed import World
from silc.train.start import find_resumed

WORLD = World(0, 1, torch.device("cpu"))


def test_a_tower_is_not_locked_at_random_weights_where_there_is_nothing_to_resume(tmp_path, capsys):
    """train.resume=auto stands in commands that are given until they end well, so the first one begins anew."""
    config = Config()
    config.optim.locked, config.train.resume = ["vision"], "auto"
    with pytest.raises(ValueError, match=r"optim\.locked=\[vision\] would keep random first weights"):
        find_resumed(config, WORLD, tmp_path)
    config.train.init = "a model"
    assert find_resumed(config, WORLD, tmp_path) is None
    assert "the run starts at step 0" in capsys.readouterr().out
