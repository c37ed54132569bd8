"""Pictures and captions: tar shards in, batches of uint8 crops and tokens out.

``shards`` finds samples and reads their bytes, ``stream`` orders them, ``decode``, ``crops`` and ``tokenizer`` make
tensors of them, ``loader`` hands out batches. For evaluation, ``splits`` and ``folders`` read pictures by number,
``layouts`` knows the public data sets' folders.
"""

from silc.data.batch import Batch, Skip
from silc.data.loader import Loader, build_loader
from silc.data.tokenizer import Tokenizer, build_tokenizer

__all__ = ["Batch", "Loader", "Skip", "Tokenizer", "build_loader", "build_tokenizer"]
