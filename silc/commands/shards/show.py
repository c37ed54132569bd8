"""`silc shards show`: what a set of tar shards looks like, from a random sample of it.

silc shards show /data/pairs                             counts, sizes, captions, as text
silc shards show /data/pairs --out look                  also contact_sheet.png, show.html and show.json in a folder
silc shards show /data/pairs --sample all data.caption_key=json:caption
silc shards show s3://bucket/pairs --images 60 --seed 1
silc shards show --preset mine.yaml                      the shards that the preset names

Images are looked at by their headers, only those of the contact sheet are decoded. The same seed shows the same
samples. With an index beside the shards (`silc shards index`) a set of any size takes as long as its sample; local
shards without one are indexed first, in the cache ($SILC_CACHE).

Tokens are those of data.tokenizer, and the model reads model.text.context_length of them. Languages are an estimate
(py3langid: pip install 'silc[pack]'), scripts too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.commands.shards.common import Bar, add_jobs, make_out, say
from silc.commands.shards.configured import add_words, configuration

if TYPE_CHECKING:
    from silc.config import Config
    from silc.data.shards.reader import Place
    from silc.data.survey.overview import Overview
    from silc.data.survey.sampling import Opened

SAMPLE, IMAGES, MOST_IMAGES = 10_000, 24, 1000
SHEET, PAGE, TABLE = "contact_sheet.png", "show.html", "show.json"


def add(commands: Any) -> None:
    """Register the command."""
    show = commands.add_parser("show", help="counts, sizes, captions and a contact sheet", description=__doc__)
    add_words(show)
    add_jobs(show)
    show.add_argument("--out", type=Path, metavar="FOLDER", help=f"write {SHEET}, {PAGE} and {TABLE} there")
    show.add_argument("--images", type=_images, default=IMAGES, metavar="N", help=f"images shown (default: {IMAGES})")
    show.add_argument(
        "--sample", type=_sample, default=SAMPLE, metavar="N", help=f"samples looked at, or all (default: {SAMPLE:,})"
    )
    show.add_argument("--font", type=Path, metavar="FILE", help="of the contact sheet, for scripts that it lacks")
    show.add_argument("--seed", type=_whole, default=0, metavar="N", help="of the random sample (default: 0)")
    show.set_defaults(work=_show, goes_on=False)


def _show(args: argparse.Namespace) -> int:
    from silc.data.survey import sampling
    from silc.data.survey.addresses import find
    from silc.data.survey.facts import facts
    from silc.data.survey.overview import survey
    from silc.data.survey.sheet import font_of
    from silc.text import plural

    shards, config = configuration(args)
    named = find(shards)
    if args.out is not None:
        font_of(12, args.font)
        make_out(args.out)
    with Bar("shard") as bar:
        opened = sampling.open_index(named, config.data.image_keys, jobs=args.jobs, progress=bar.show, say=say)
    total = int(opened.manifest.samples.sum())
    drawn = sampling.draw(total, min(total, args.sample or total), args.seed)
    wanted = sampling.places(opened.manifest, drawn)
    with Bar("sample") as bar:
        found = survey(opened, config, sorted(wanted), args.seed, bar.show)
    lines = list(facts(found))
    print("\n".join(lines))
    if args.out is not None:
        title = shards[0] if len(shards) == 1 else f"{shards[0]} and {plural(len(shards) - 1, 'more')}"
        _write(args.out, title, lines, opened, config, wanted[: args.images], found, args.font)
    return 0


def _write(
    out: Path,
    title: str,
    lines: list[str],
    opened: Opened,
    config: Config,
    wanted: list[Place],
    found: Overview,
    font: Path | None,
) -> None:
    from silc.data.survey import page, sheet
    from silc.data.survey.facts import facts
    from silc.data.survey.pictures import pictures
    from silc.errors import RunStopped
    from silc.files import advice, write_text

    shown = pictures(opened.manifest, config, wanted)
    try:
        sheet.draw(shown, f"{title}: {lines[0]}", out / SHEET, font)
        page.write(out / PAGE, title, list(facts(found, tables=True)), found, shown)
        write_text(out / TABLE, json.dumps(found.to_dict(), indent=1) + "\n")
    except OSError as error:
        raise RunStopped(f"{out} could not be written: {error.strerror}{advice(error)}") from error
    print(f"written: {out / SHEET}, {out / PAGE}, {out / TABLE}")


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, 0 or more")
    return int(text)


def _images(text: str) -> int:
    if not text.isdigit() or int(text) > MOST_IMAGES:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of images, 0 to {MOST_IMAGES:,}")
    return int(text)


def _sample(text: str) -> int:
    """A number of samples; 0: all."""
    if text == "all":
        return 0
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of samples, at least 1, or all")
    return int(text)
