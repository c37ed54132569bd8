"""`silc shards index`: where each sample of a set of tar shards begins.

silc shards index /data/pairs                           index a folder: once, and again when its shards have changed
silc shards index s3://bucket/pairs                     a bucket; sidecars and manifest are written there
silc shards index 'https://host/pairs/{00000..09999}.tar' --out /data/index
silc shards index /data/pairs --captions txt            with caption hashes, for data.unique_captions=true
silc shards index /data/pairs --check                   say what is missing, stale or damaged, and write nothing

The index says where each sample begins, so that a run reads any sample at any time and starts at once. It is a sidecar
of eight bytes a sample beside each shard (00000.tar.idx) and a list of the shards, shards.manifest. A run with up to
2,000 local shards makes it by itself; more shards, and remote ones, need this command. Interrupted, it goes on where it
was.

Counts that img2dataset (00000_stats.json), open_clip (sizes.json) and megatron-energon (.nv-meta/.info.json) left
beside the shards are compared with what is found. They cannot replace reading the headers, as they do not tell where a
sample begins; megatron-energon's own .tar.idx files can (--energon).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.commands.shards.common import Bar, add_jobs, make_out, say

if TYPE_CHECKING:
    from silc.data.shards.build import Built


def add(commands: Any) -> None:
    """Register the command."""
    index = commands.add_parser("index", help="make the index, or bring it up to date", description=__doc__)
    index.add_argument("patterns", nargs="+", metavar="SHARDS", help="folders, tar files, brace patterns, wildcards")
    index.add_argument("--out", metavar="FOLDER", help="where the index is written (default: beside the shards)")
    index.add_argument(
        "--captions",
        metavar="KEY",
        help="also write hashes of the captions; KEY as in data.caption_key",
    )
    index.add_argument("--images", metavar="EXT,EXT", help="extensions of images (default: those of data.image_keys)")
    add_jobs(index)
    index.add_argument("--check", action="store_true", help="write nothing; status 1 if anything is wrong")
    index.add_argument("--force", action="store_true", help="read every shard again")
    index.add_argument("--skip-bad", action="store_true", help="leave out shards that cannot be indexed")
    index.add_argument(
        "--energon",
        action="store_true",
        help="take the .tar.idx files that megatron-energon wrote, after a look at 16 samples of each shard; samples "
        "that cannot be used are then not counted",
    )
    index.set_defaults(work=_index)


def _index(args: argparse.Namespace) -> int:
    from silc.data.shards.errors import few
    from silc.data.shards.expand import expand_shards
    from silc.data.shards.places import absolute

    addresses = [absolute(shard) for name in expand_shards(args.patterns, "SHARDS") for shard in _listed(name)]
    if not addresses:
        raise ValueError(f"no tar file in {few(args.patterns)}")
    out = None if args.out is None else absolute(args.out).rstrip("/") + "/"
    work = _check if args.check else _build
    return max([work(each, folder, args) for folder, each in _groups(addresses, out).items()])


def _listed(name: str) -> list[str]:
    """The shards of a remote folder; otherwise the one that is named."""
    from silc.storage import check_address, is_remote, list_tars

    if is_remote(name):
        check_address(name, "SHARDS")
        return [name] if name.endswith(".tar") else list_tars(name)
    if name.endswith(".manifest"):
        raise ValueError(f"{name} is an index; name the shards")
    return [name]


def _groups(addresses: Sequence[str], out: str | None) -> dict[str, list[str]]:
    """Folder of an index -> its shards: all in one, or those of each folder in their own.

    Raises ValueError for an index beside some of the shards of a folder: a run on the folder would miss the others.
    """
    from silc.data.shards.errors import few
    from silc.data.shards.manifest_file import prefix_of
    from silc.storage import list_tars

    if out is not None:
        return {out: list(addresses)}
    groups: dict[str, list[str]] = {}
    for address in addresses:
        groups.setdefault(prefix_of(address), []).append(address)
    for folder, each in groups.items():
        if folder.startswith(("http://", "https://")):
            raise ValueError(f"{folder} is on a web server, where nothing can be written; give a folder with --out")
        named = set(each)
        if others := [address for address in list_tars(folder) if address not in named]:
            raise ValueError(
                f"{folder} holds other shards too: {few(others)}; index the whole folder, or give one for an index of "
                "some of its shards with --out"
            )
    return groups


def _build(addresses: list[str], out: str, args: argparse.Namespace) -> int:
    """Make or mend an index. Returns the exit status."""
    from contextlib import nullcontext

    from silc.data.shards.build import IMAGES, build
    from silc.data.shards.caption_key import CaptionKey
    from silc.data.shards.places import LOCK, only_one
    from silc.storage import is_remote

    images = args.images.lower().split(",") if args.images else IMAGES
    if not is_remote(out):
        make_out(out)
    with nullcontext() if is_remote(out) else only_one(Path(out) / LOCK, say), Bar("shard") as bar:
        built = build(
            addresses,
            out,
            caption=args.captions and str(CaptionKey.of(args.captions)),
            images=images,
            jobs=args.jobs,
            force=args.force,
            skip_bad=args.skip_bad,
            energon=args.energon,
            counts=_counts(addresses),
            progress=bar.show,
        )
    for line in sentences(built):
        print(line)
    return 1 if built.bad and not args.skip_bad else 0


def _check(addresses: list[str], out: str, args: argparse.Namespace) -> int:
    """Say what is wrong with an index. Returns the exit status."""
    from silc.data.shards.caption_key import CaptionKey
    from silc.data.shards.errors import few
    from silc.data.shards.inspect import inspect
    from silc.text import plural

    with Bar("shard") as bar:
        caption = args.captions and str(CaptionKey.of(args.captions))
        found = inspect(addresses, out, caption=caption, jobs=args.jobs, progress=bar.show)
    if found.problem:
        print(f"{found.manifest}: {found.problem}")
    for what, shards in (
        ("not in the index", found.missing),
        ("in the index, but not there or not named", found.gone),
        ("changed since the index was made", found.stale),
        ("with a damaged index", found.damaged),
        ("left out when the index was made", found.left_out),
    ):
        if shards:
            print(f"{plural(len(shards), 'shard')} {what}: {few(shards)}")
    if found.whole:
        print(f"{found.manifest} is whole: {plural(found.samples, 'sample')} in {plural(found.shards, 'shard')}")
    else:
        print(
            "`silc shards index` with the same words, without --check, mends the index; what is damaged, with --force"
        )
    return 0 if found.whole else 1


def sentences(built: Built) -> list[str]:
    """What a build did, in lines of bounded number and length."""
    from silc.data.shards.errors import SHOWN, few
    from silc.data.shards.manifest_file import shown_lost
    from silc.text import plural

    lines = [f"note: {note}" for note in built.notes[:SHOWN]]
    if len(built.notes) > SHOWN:
        lines.append(f"note: and {len(built.notes) - SHOWN:,} more such notes")
    if built.gone:
        lines.append(f"{plural(len(built.gone), 'shard')} of the earlier index left the list: {few(built.gone)}")
    total: Counter[str] = sum(map(Counter, built.lost.values()), Counter())
    if total:
        worst = sorted(built.lost, key=lambda name: -sum(built.lost[name].values()))
        shown = few([f"{name} ({shown_lost(built.lost[name])})" for name in worst])
        lines.append(f"warning: {plural(total.total(), 'sample')} cannot be used: {shown_lost(total)}; in {shown}")
    if built.bad:
        shown = few([f"{name}: {wrong}" for name, wrong in built.bad])
        lines.append(f"{plural(len(built.bad), 'shard')} cannot be indexed: {shown}")
    if built.manifest is None:
        lines.append("no manifest is written: repair or remove these shards, or leave them out with --skip-bad")
        return lines
    manifest = built.manifest
    done = ", ".join(f"{count:,} {how}" for how, count in sorted(built.how.items()))
    lines.append(
        f"{plural(int(manifest.samples.sum()), 'sample')} in {plural(len(manifest), 'shard')} "
        f"({manifest.sizes.sum() / 1e9:.1f} GB) in {built.path} ({done})"
    )
    return lines


def _counts(addresses: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Samples that megatron-energon or open_clip counted, by address, and where."""
    from silc.data.shards.imports import counts_in
    from silc.data.shards.manifest_file import prefix_of
    from silc.storage import read_whole

    found = {folder: counts_in(folder, read_whole) for folder in dict.fromkeys(map(prefix_of, addresses))}
    return {
        folder + name: (count, counts.origin)
        for folder, counts in found.items()
        if counts is not None
        for name, count in counts.by_name.items()
    }
