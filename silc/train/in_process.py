"""Training from Python: sections of the configuration as mappings in, a run folder out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from silc.config import Config
from silc.config_io import load_config

PRESETS = Path(__file__).resolve().parents[1] / "presets"


def train_in_process(preset: str | Path, sections: Mapping[str, Any]) -> Path:
    """See :func:`silc.train.train`."""
    config = load_config(preset, list(words(sections)), presets=PRESETS)
    if "torch" not in sys.modules:  # read when torch loads: waiting threads must not spin
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
    return _run(config)


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


def _run(config: Config) -> Path:
    """Train and return the run folder. Raises as :func:`silc.train.train` says."""
    from silc.train import run as module

    if hasattr(module, "run"):
        return module.run(config)
    return _run_by_status(module, config)


def _run_by_status(module: Any, config: Config) -> Path:
    """For a `train` that answers with an exit status: its message on stderr as an exception. To be removed with it."""
    import contextlib
    import dataclasses
    import io

    from silc.errors import STOPPED_BY_SIGNAL, RunInterrupted, RunStopped

    folder = module._run_folder(config)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, out=str(folder)))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = module.train(config)
    message = said.getvalue().rpartition("train.py: ")[2].strip()
    if status:
        raise {2: ValueError, STOPPED_BY_SIGNAL: RunInterrupted}.get(status, RunStopped)(message)
    return folder
