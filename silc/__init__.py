"""SILC: image-text contrastive pretraining with local-to-global self-distillation (arXiv 2310.13355).

    import silc

    run = silc.train("sample", train={"steps": 200})    # or on the command line: silc train train.steps=200
    model = silc.load(run)
    model.classify(image, ["cat", "dog"])

Importing this package imports nothing else: `load` and `train` bring torch with their first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from silc.version import __version__

if TYPE_CHECKING:
    from silc.pretrained import load
    from silc.train import train

__all__ = ["__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    """`load` and `train` on first use (PEP 562)."""
    if name == "load":
        from silc.pretrained import load

        return load
    if name == "train":  # the subpackage, which can be called: see there
        return importlib.import_module("silc.train")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
