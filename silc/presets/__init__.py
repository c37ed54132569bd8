"""The presets: YAML files beside this module, installed with the package."""

from pathlib import Path

PRESETS = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the presets, in alphabetical order."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))
