"""`silc shards check`: read and decode every sample of a set of tar shards as training would.

silc shards check /data/pairs                            a folder
silc shards check /data/pairs data.caption_key=json:caption
silc shards check /data/pairs --json check.json --bad bad.tsv
silc shards check 's3://bucket/pairs/{00000..00099}.tar' --jobs 16
silc shards check --preset mine.yaml                     the shards that the preset names

Prints how many samples are whole, what is wrong with the others and the keys of some, which images and captions come
again (by a hash of their bytes), and what training does with odd images. What training reads is said by the keys of the
configuration: data.image_keys, data.caption_key, data.caption_lines and data.max_image_pixels, as section.key=value or
in a preset.

Of remote shards with an index, samples that packing lost are counted, and not named.

Status 0: training can use every sample; 1: it cannot use some, or a shard is damaged; repeats and odd images are no
damage. Training skips what is damaged, up to data.max_skipped. Interrupted, the same command goes on where it was. The
cache ($SILC_CACHE) takes about 100 bytes a sample meanwhile, memory some hundred MB a process, however many there are.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from silc.commands.shards.common import Bar, add_jobs, say
from silc.commands.shards.configured import add_words, configuration


def add(commands: Any) -> None:
    """Register the command."""
    check = commands.add_parser("check", help="read and decode every sample as training would", description=__doc__)
    add_words(check)
    add_jobs(check)
    check.add_argument("--json", type=Path, metavar="FILE", help="write what was found as JSON too")
    check.add_argument(
        "--bad", type=Path, metavar="FILE", help="list what is damaged, one a line: shard, key and reason behind tabs"
    )
    check.set_defaults(work=_check)


def _check(args: argparse.Namespace) -> int:
    from silc.data.survey.addresses import find
    from silc.data.survey.checking import check
    from silc.data.survey.examine import Settings
    from silc.data.survey.findings import sentences, to_dict

    shards, config = configuration(args)
    data = config.data
    settings = Settings(tuple(data.image_keys), data.caption_key, data.caption_lines, data.max_image_pixels)
    named = find(shards)
    with ExitStack() as stack:
        report, bad = written(stack, args.json), written(stack, args.bad)

        def note(address: str, key: str, reason: str) -> None:
            if bad is not None:
                print(plain(address), plain(key), plain(reason), sep="\t", file=bad)

        with Bar("shard") as bar:
            found = check(named, settings, jobs=args.jobs, progress=bar.show, note=note, say=say)
        if report is not None:
            json.dump(to_dict(found), report, indent=1)
            report.write("\n")
    for line in sentences(found):
        print(line)
    if found.unnamed:
        print(f"{found.unnamed:,} damaged samples are counted, but not named: there are too many in one shard")
    return 0 if found.sound else 1


def written(stack: ExitStack, path: Path | None) -> IO[str] | None:
    """A text file, whole or absent when the stack is closed. Raises ValueError before work where it cannot be."""
    from silc.files import replacing

    if path is None:
        return None
    try:
        draft = stack.enter_context(replacing(path))
        return stack.enter_context(draft.open("w", encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}; give a file in a folder that is there") from None


def plain(text: str) -> str:
    """A text in one column of one line: what cannot be printed, and backslashes, are escaped as Python does."""
    return "".join(
        sign if sign.isprintable() and sign != "\\" else sign.encode("unicode_escape").decode() for sign in text
    )
