"""The small model of tests/model, as seen from here."""

from tests.model.conftest import _seed, config, model, pixels

__all__ = ["_seed", "config", "model", "pixels"]
