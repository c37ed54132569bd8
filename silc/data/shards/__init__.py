"""WebDataset tar shards: which files, which samples, which bytes.

``tar`` reads headers, ``samples`` groups members, ``expand`` finds the shards that patterns name, ``index`` holds the
samples of local shards in memory.
"""

from silc.data.shards.errors import CutShort, Unreadable
from silc.data.shards.expand import expand_shards
from silc.data.shards.index import Columns, Shard, ShardIndex
from silc.data.shards.samples import Sample, Scan, first_key, parse, scan, scan_file
from silc.data.shards.tar import Source

__all__ = [
    "Columns",
    "CutShort",
    "Sample",
    "Scan",
    "Shard",
    "ShardIndex",
    "Source",
    "Unreadable",
    "expand_shards",
    "first_key",
    "parse",
    "scan",
    "scan_file",
]
