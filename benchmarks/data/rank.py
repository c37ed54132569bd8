"""The process of one rank: opens a stream, takes its first batch, then does what the lines of its input say.

    PYTHON -m benchmarks.data.rank FILE          FILE: JSON of streams.Spec, and `born`: monotonic time of the start

Output, a line of JSON each: {"imported": s, "first": s, "samples": n} after the first batch, seconds since `born`; then
for each line `take N` of input, {"seconds": s, "samples": n}; for `check` (one pass, from the first batch on)
{"crcs": {key: crc32 of image and caption}, "twice": [keys]}.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch

from benchmarks.data.streams import STREAMS, Spec, Taken, open_stream

ANSWERS = os.fdopen(os.dup(1), "w")  # libraries print as they like, to what is now stderr
os.dup2(2, 1)
LIBRARY = {"silc": "benchmarks.data.ours", "webdataset": "webdataset"}


def main(argv: list[str]) -> None:
    told = json.loads(Path(argv[0]).read_text())
    born = told.pop("born")
    torch.set_num_threads(1)
    spec = Spec(**told)
    assert spec.provider in STREAMS
    __import__(LIBRARY.get(spec.provider, "streaming"))
    imported = time.monotonic() - born
    batches = iter(open_stream(spec))
    first = next(batches)
    say(imported=imported, first=time.monotonic() - born, samples=len(first.keys))
    for line in sys.stdin:
        verb, *numbers = line.split()
        if verb == "take":
            start, samples = time.monotonic(), 0
            for _ in range(int(numbers[0])):
                samples += len(next(batches).keys)
            say(seconds=time.monotonic() - start, samples=samples)
        else:
            say(**check(chain([first], batches)))


def check(batches: Iterator[Taken]) -> dict[str, object]:
    """Read to the end of a pass: the checksum of each sample's bytes, and the keys that came more than once."""
    crcs: dict[str, int] = {}
    twice = []
    for batch in batches:
        ends = batch.texts.flatten().cumsum(0).tolist()
        packed = batch.images.numpy()
        for i, key in enumerate(batch.keys):
            sample = packed[ends[2 * i - 1] if i else 0 : ends[2 * i + 1]]
            if key in crcs:
                twice.append(key)
            crcs[key] = zlib.crc32(sample)
    return {"crcs": crcs, "twice": twice}


def say(**words: object) -> None:
    """One line to whoever started this process."""
    print(json.dumps(words), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
