"""Which shards, read how: the words of the commands that read samples as training does."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silc.config import Config

_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)+=.*", re.DOTALL)


def add_words(parser: argparse.ArgumentParser) -> None:
    """The shards, configuration keys among them, and the option --preset."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="SHARDS | section.key=value",
        help="folders, tar files, brace patterns, wildcards, manifests (default: data.shards); configuration keys",
    )
    parser.add_argument("--preset", metavar="NAME", help="preset or YAML file of the run that the shards are for")


def configuration(args: argparse.Namespace) -> tuple[list[str], Config]:
    """The shards that are named and the configuration they are read by.

    Raises ValueError for a wrong key, and where no shards are named.
    """
    from silc import config_io
    from silc.config import Config

    overrides = [word for word in args.words if _OVERRIDE.fullmatch(word)]
    shards = [word for word in args.words if not _OVERRIDE.fullmatch(word)]
    if args.preset is None:
        config = config_io.override(Config(), overrides)
    else:
        config = config_io.load_config(args.preset, overrides)
    if not shards:
        shards = [*config.data.shards, *(shard for source in config.data.sources for shard in source.shards)]
    if not shards:
        raise ValueError("no shards given: name folders or tar files, or a preset with data.shards")
    return shards, config
