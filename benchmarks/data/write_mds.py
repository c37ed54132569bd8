"""Writes MDS shards with mosaicml-streaming's own writer; run by the Python that has it.

    PYTHON -m benchmarks.data.write_mds TAR... FOLDER

Each tar becomes one shard, FOLDER/shard.NNNNN.mds, with the same samples in the same order.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from benchmarks.data.pairs import read_tar

COLUMNS = {"key": "str", "image": "bytes", "caption": "bytes"}


def main(argv: list[str]) -> None:
    from streaming import MDSWriter

    *tars, out = argv
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, tar in enumerate(tars):
        draft = folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        with MDSWriter(out=str(draft), columns=COLUMNS, size_limit=None) as writer:
            for pair in read_tar(Path(tar)):
                writer.write(pair._asdict())
        (entry,) = json.loads((draft / "index.json").read_text())["shards"]
        name = f"shard.{number:05}.mds"
        (draft / entry["raw_data"]["basename"]).rename(folder / name)
        entry["raw_data"]["basename"] = name
        entries.append(entry)
        shutil.rmtree(draft)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": entries}))


if __name__ == "__main__":
    main(sys.argv[1:])
