"""contrastive_loss in plain torch: the passes of similarities.py over tiles of plain torch."""

from ..contrastive_op import define
from .tiles import TorchTiles

contrastive_loss = define("reference", TorchTiles)
