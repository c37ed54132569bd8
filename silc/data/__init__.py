"""Images and captions: tar shards in, batches of uint8 crops and tokens out.

``shards`` finds samples and reads their bytes, ``stream`` orders them, ``decode``, ``crops`` and ``tokenizer`` turn
them into tensors, ``loader`` yields batches. For evaluation, ``splits`` and ``folders`` read images by index, and
``layouts`` opens the folders of public data sets.
"""

from silc.data.batch import Batch, Skip
from silc.data.loader import Loader, build_loader
from silc.data.tokenizer import build_tokenizer, tokenizer_of
from silc.data.tokens import Tokenizer

__all__ = ["Batch", "Loader", "Skip", "Tokenizer", "build_loader", "build_tokenizer", "tokenizer_of"]
