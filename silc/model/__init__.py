"""The student's towers and head."""

from silc.model.head import DistillInputs, PrototypeHead
from silc.model.init import initialize
from silc.model.scale import LogitScale
from silc.model.silc import SilcModel, build, compile_blocks
from silc.model.text import TextTower
from silc.model.vision import VisionTower

__all__ = [
    "DistillInputs",
    "LogitScale",
    "PrototypeHead",
    "SilcModel",
    "TextTower",
    "VisionTower",
    "build",
    "compile_blocks",
    "initialize",
]
