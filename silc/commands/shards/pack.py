"""`silc shards pack`: shards from a folder of images, a table, a caption file, or a Hugging Face data set.

silc shards pack pictures --out shards                  images with .txt beside (1.jpg, 1.txt: a caption a line)
silc shards pack pictures --out shards --captions json:caption
silc shards pack classes/train --out data/train --template "a photo of a {}"
silc shards pack pairs.csv --out shards --size 512      columns are found by their usual names, or --image-column ...
silc shards pack pairs.parquet --out shards --root /data/images
silc shards pack annotations/captions_train2017.json --out shards --root train2017
silc shards pack dataset_flickr30k.json --out shards --split train
silc shards pack saved_dataset --out shards             a folder that save_to_disk wrote; also folders of .parquet
silc shards pack pictures --out shards --dry-run        what would be done, and the first samples

Sources: a folder of images with captions beside, class folders; .csv, .tsv, .jsonl, .json, .parquet with images or
paths; the caption files of COCO, Flickr8k, Flickr30k and Karpathy's splits; data sets of save_to_disk. Paths count
from the table's folder, or from --root, and must lie below it; absolute ones too (--root / allows any).

Files are kept as they are, unless --size makes larger ones smaller. What cannot be used is counted and listed in
skipped.jsonl. The same command goes on after an interruption; shards appear when all are done. The same source and
options make the same bytes, with any number of processes.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from argparse import BooleanOptionalAction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.commands.shards.common import Bar, add_jobs, say

if TYPE_CHECKING:
    from silc.data.packing.options import SourceOptions
    from silc.data.packing.pack import PackOptions
    from silc.data.packing.rows import Listing
    from silc.data.packing.state import Finished

SHOWN, COUNTED = 3, 100_000  # samples that a dry run shows; rows that it counts at most
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def add(commands: Any) -> None:
    """Register the command."""
    pack = commands.add_parser("pack", help="make shards of a folder, table or data set", description=__doc__)
    pack.add_argument("source", metavar="SOURCE", help="a file or folder")
    pack.add_argument("--out", metavar="FOLDER", required=True, help="where the shards are written")
    _add_reading(pack.add_argument_group("what the source means"))
    _add_writing(pack.add_argument_group("what is written"))
    add_jobs(pack)
    pack.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    pack.add_argument("--force", action="store_true", help="start anew where an earlier pack is in FOLDER")
    pack.set_defaults(work=_pack)


def _add_reading(group: Any) -> None:
    group.add_argument("--captions", metavar="EXT", help="files beside the images: txt (default), caption, json:FIELD")
    group.add_argument("--template", metavar="TEXT", help="caption of a class folder's images: 'a photo of a {}'")
    group.add_argument("--classes", metavar="FILE", help="names of the class folders, a line each, in their order")
    group.add_argument("--image-column", metavar="NAME", help="column of a table with images or their paths")
    group.add_argument("--caption-column", metavar="NAME", help="column of a table with captions")
    group.add_argument("--no-quotes", action="store_true", help="CSV, TSV: quotation marks are plain characters")
    group.add_argument("--root", metavar="FOLDER", help="where paths count from (default: the table's folder)")
    group.add_argument("--split", metavar="NAME", help="train, or train,restval, or all, of a source with splits")


def _add_writing(group: Any) -> None:
    group.add_argument("--size", type=_whole(16), metavar="N", help="shorter side of larger images, encoded anew")
    group.add_argument("--quality", type=_whole(1, 100), default=95, metavar="Q", help="of these JPEGs (default: 95)")
    group.add_argument("--verify", action="store_true", help="decode every image; leave out those that fail")
    group.add_argument(
        "--samples-per-shard",
        type=_whole(1),
        metavar="N",
        help="at most (default: 10,000; fewer for less than 160,000 rows, so that several processes have work)",
    )
    group.add_argument("--shard-size", type=_bytes, default="1GB", metavar="BYTES", help="at most (default: 1GB)")
    group.add_argument("--shuffle", action=BooleanOptionalAction, default=True, help="mix the rows (default)")
    group.add_argument("--seed", type=_whole(0, 2**63 - 1), default=0, metavar="N", help="of that order (default: 0)")
    group.add_argument("--limit", type=_whole(1), metavar="N", help="take N rows only")
    group.add_argument(
        "--max-skipped", type=_share, default=0.1, metavar="X", help="share of rows that may be left out (default: 0.1)"
    )


def _whole(least: int, most: int | None = None) -> Any:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or len(text) > 19 or not least <= int(text) <= (most or int(text)):
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, at least {least}" + _up_to(most))
        return int(text)

    return number


def _up_to(most: int | None) -> str:
    return "" if most is None else f", at most {most}"


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,15})\s*([kmgt]?)b?", text.strip().lower())
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of bytes, such as 500MB or 1GB")
    return int(found[1]) * _UNITS[found[2]]


def _share(text: str) -> float:
    try:
        if 0 <= (share := float(text)) <= 1:
            return share
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: give a share from 0 to 1")


def _pack(args: argparse.Namespace) -> int:
    from silc.data.packing.find import find
    from silc.data.packing.pack import pack
    from silc.data.packing.paths import check_beginning
    from silc.data.shards.errors import shorten

    if os.path.isdir(args.source) and os.path.exists(args.out) and os.path.samefile(args.source, args.out):
        raise ValueError(f"--out {args.out} is the source; give a folder of its own")
    reading = _reading(args)
    listing = find(args.source, reading, leave_out=args.out)
    print(f"{shorten(args.source)} is {listing.title}")
    for note in listing.notes:
        print(f"  {note}")
    check_beginning(listing)
    options = _options(args, reading)
    if args.dry_run:
        _show(listing, options)
        return 0
    with Bar("part") as bar:
        finished = pack(listing, args.source, Path(args.out), options, bar.show, say)
    for line in sentences(finished, args.out, listing):
        print(line)
    return 0


def _reading(args: argparse.Namespace) -> SourceOptions:
    from silc.data.packing.options import SourceOptions

    names = ("captions", "template", "classes", "image_column", "caption_column", "root", "split")
    given = {name: getattr(args, name) for name in names}
    return SourceOptions(**given, quotes=False if args.no_quotes else None)


def _options(args: argparse.Namespace, reading: SourceOptions) -> PackOptions:
    from dataclasses import asdict

    from silc.config import DataConfig
    from silc.data.packing.pack import PackOptions
    from silc.data.packing.sample import SampleOptions

    making = SampleOptions(
        size=args.size,
        quality=args.quality,
        verify=args.verify,
        max_pixels=DataConfig().max_image_pixels,
        captions=reading.captions or "txt",
    )
    return PackOptions(
        making=making,
        reading=asdict(reading) | {"root": reading.root and os.path.relpath(reading.root, args.out)},
        samples=args.samples_per_shard,
        size=args.shard_size,
        seed=args.seed if args.shuffle else None,
        limit=args.limit,
        max_skipped=args.max_skipped,
        jobs=args.jobs,
        force=args.force,
    )


def _show(listing: Listing, options: PackOptions) -> None:
    """What a dry run prints: the first samples as they would be packed, and the number of rows."""
    from silc.data.packing.rows import Row, Rows
    from silc.data.packing.sample import SampleMaker
    from silc.data.shards import Unreadable
    from silc.data.shards.errors import shorten
    from silc.text import plural

    make, shown = SampleMaker(listing.root, options.making), 0
    for row in islice(listing.rows(), COUNTED):
        if not isinstance(row, Row):
            continue
        try:
            members = make(row)
        except Unreadable as why:
            print(f"{shorten(row.name)}: left out, {why}")
        else:
            kind, data = members[0]
            captions = members[1][1].decode().split("\n")
            more = f" and {plural(len(captions) - 1, 'other')}" if len(captions) > 1 else ""
            print(f"{shorten(row.name)}: {kind}, {len(data):,} bytes, {shorten(captions[0])!r}{more}")
        shown += 1
        if shown == SHOWN:
            break
    if isinstance(listing, Rows):
        print(f"{plural(len(listing), 'row')}; nothing was written")
        return
    count = sum(1 for _ in islice(listing.rows(), COUNTED + 1))
    print(f"{plural(count, 'row') if count <= COUNTED else f'more than {COUNTED:,} rows'}; nothing was written")


def sentences(finished: Finished, out: str, listing: Listing) -> list[str]:
    """What was packed, what was left out, and the next command."""
    from silc.config import DataConfig
    from silc.data.packing import finish
    from silc.data.packing.skips import Tally
    from silc.data.shards.caption_key import MOST
    from silc.text import plural

    size = sum(size for _, _, size in finished.shards)
    several = f" with {finished.captions:,} captions" if finished.captions != finished.samples else ""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in finished.kinds.most_common())
    lines = [
        f"{plural(finished.samples, 'sample')}{several} ({kinds}) in {plural(len(finished.shards), 'shard')}, "
        f"{size:,} bytes, with their index in {out}"
    ]
    if finished.full:
        lines.append(
            f"{plural(finished.full, 'sample')} with {MOST:,} captions, as many as are read; "
            "if there are more, these are left out"
        )
    if left := finished.skipped.total():
        tally = Tally(finished.skipped, finished.examples)
        lines.append(f"left out {plural(left, 'row')}: {tally}; all are in {Path(out) / finish.SKIPPED}")
    if listing.classes:
        names = os.path.relpath(finish.classes_place(Path(os.path.abspath(out))))
        lines.append(f"names of the {plural(len(listing.classes), 'class', 'classes')} in {names}")
    known = DataConfig().image_keys
    words = ["silc", "train", f"data.shards=[{out}]"]
    if set(finished.kinds) - set(known):
        words.append(f"data.image_keys=[{','.join([*known, *sorted(set(finished.kinds) - set(known))])}]")
    lines.append(f"next: {shlex.join(words)}")
    return lines
