"""WebDataset tar shards: which files, which samples, which bytes.

``expand`` finds the shards that patterns name, ``tar`` reads headers, ``runs`` and ``samples`` group members, ``lost``
judges what cannot be used, ``index`` holds the samples of local shards in memory.
"""

from silc.data.shards.errors import Unreadable
from silc.data.shards.expand import expand_shards
from silc.data.shards.index import Columns, ShardIndex
from silc.data.shards.lost import Tally, check_lost
from silc.data.shards.runs import caption_hash
from silc.data.shards.samples import Sample, Scan, first_key, locate, parse, scan, scan_file
from silc.data.shards.tar import Source, windowed

__all__ = [
    "Columns",
    "Sample",
    "Scan",
    "ShardIndex",
    "Source",
    "Tally",
    "Unreadable",
    "caption_hash",
    "check_lost",
    "expand_shards",
    "first_key",
    "locate",
    "parse",
    "scan",
    "scan_file",
    "windowed",
]
