"""Training from Python: sections of the configuration as mappings in, a run folder out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from silc.config_io import load_config


def train_in_process(preset: str | Path, sections: Mapping[str, Any]) -> Path:
    """See :func:`silc.train.train`."""
    overrides = list(words(sections))
    config = load_config(preset, overrides)
    if "torch" not in sys.modules:  # read when torch loads: waiting threads must not spin
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
    from silc.distributed import left_afterwards, name_accelerator

    name_accelerator()
    from silc.train.run import run

    with left_afterwards():
        return run(config, command=["silc", "train", "--preset", str(preset), *overrides])


def words(sections: Mapping[str, Any]) -> Iterator[str]:
    """Sections as the words `section.key=value` of the command line. Raises ValueError for a value of another kind."""
    for section, keys in sections.items():
        if not isinstance(keys, Mapping):
            raise ValueError(
                f"{section}={keys!r}: give a section of the configuration as a mapping of its keys, as in "
                'train={"steps": 200}'
            )
        for key, value in keys.items():
            try:
                text = yaml.safe_dump(_plain(value), default_flow_style=True, width=float("inf"))
            except yaml.YAMLError:
                raise ValueError(
                    f"{section}.{key}={value!r}: give numbers, text, booleans, None, paths, or lists and mappings of "
                    "them"
                ) from None
            yield f"{section}.{key}={text.removesuffix(chr(10)).removesuffix('...').rstrip()}"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    return value
