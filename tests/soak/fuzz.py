"""Damaged files, thousands of them: what reads them ends, in time, with what it promises.

    python -m tests.soak.fuzz [--quick] [--seed N]

1. Tars, damaged at random: scanning ends and loses no sample that stands before the damage without a word.
2. Sidecars and manifests: refused with a ValueError, or what is read from them holds together.
3. Images, of every format that Pillow writes, as images and as masks: decoded within the limit of pixels or refused in
   words, in seconds and within memory. Counted by format, and by the reason of the refusal.
4. Whole sets with damaged tars or damaged sidecars, read as a training reads them: the set is refused with a
   ValueError, or each sample comes as it was written, or as one of another name, or is counted as unusable.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from benchmarks.data.pairs import pairs, pictures, write_tar
from silc.data.dataset import BatchDataset
from silc.data.shards import Sample
from silc.data.training_set import open_training_set
from silc.errors import RunStopped
from silc.storage import Board
from tests.data.images import image_fuzz
from tests.data.shards import index_fuzz, mutations
from tests.soak.common import Table, config, finish
from tests.soak.served import index

LIMIT = 60  # seconds for one piece of work that takes milliseconds
PIECE = 250  # files checked between two looks at the clock
SHARDS, SAMPLES = 2, 150
OUTCOMES = {"as written", "damaged bytes", "another name", "unusable"}  # of a sample


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def check_files(what: str, fuzz: Callable[[int, int], dict[str, int]], count: int, seed: int) -> Table:
    """Parts 1 and 2: `count` files, some at a time."""
    table = Table(f"{count} damaged {what}", ("files", "outcome"), (8, 90))
    outcomes: Counter[str] = Counter()
    for first in range(0, count, PIECE):
        try:
            with limited(LIMIT):
                outcomes.update(fuzz(min(PIECE, count - first), seed * 1000 + first // PIECE))
        except Exception as error:
            table.row(first, f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}"[:90], holds=False)
    shown = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
    table.row(count, shown, holds=len(outcomes) > 1)
    return table


def check_images(count: int, seed: int) -> Table:
    """Part 3."""
    table = Table(f"{count} damaged images", ("format", "files", "decoded", "refused"), (9, 8, 8, 90))
    outcomes: Counter[tuple[str, str]] = Counter()
    for first in range(0, count, PIECE):
        try:
            with limited(LIMIT):
                outcomes.update(image_fuzz.fuzz(min(PIECE, count - first), seed * 1000 + first // PIECE))
        except Exception as error:
            why = f"{type(error).__name__}: {error} {getattr(error, '__notes__', '')}"[:90]
            table.row("", first, "", why, holds=False)
    for kind in sorted({kind for kind, _ in outcomes}):
        of_kind = Counter({what: number for (other, what), number in outcomes.items() if other == kind})
        images = Counter({what: number for what, number in of_kind.items() if not what.startswith("mask: ")})
        reasons = ", ".join(f"{what} {number}" for what, number in images.most_common() if what != "decoded")
        read = kind in image_fuzz.READ
        table.row(kind, images.total(), images["decoded"], reasons, holds=not read or images["decoded"] > 0)
    masks: Counter[str] = Counter()
    for (_, what), number in outcomes.items():
        if what.startswith("mask: "):
            masks[what.removeprefix("mask: ")] += number
    shown = ", ".join(f"{what} {number}" for what, number in masks.most_common() if what != "decoded")
    table.row("as masks", masks.total(), masks["decoded"], shown, holds=masks["decoded"] > 0)
    return table


def check_sets(folder: Path, count: int, seed: int) -> Table:
    """Part 4."""
    whole: dict[str, tuple[bytes, bytes]] = {}
    contents: dict[str, bytes] = {}
    pool = pictures(16, 16, 16)
    (folder / "set").mkdir()
    for shard in range(SHARDS):
        path = folder / "set" / f"{shard:03}.tar"
        write_tar(path, pairs(shard * SAMPLES, SAMPLES, pool))
        for pair in pairs(shard * SAMPLES, SAMPLES, pool):
            whole[pair.key] = (pair.image, pair.caption)
    index(folder / "set")
    contents = {path.name: path.read_bytes() for path in (folder / "set").iterdir()}
    table = Table(f"{count} sets with damaged files", ("sets", "outcome"), (8, 90))
    outcomes: Counter[str] = Counter()
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")
        try:
            victim = _damage(folder / "set", contents, rng)
            with limited(LIMIT), redirect_stdout(io.StringIO()):
                outcomes.update([_read(folder / "set", whole, intact=not victim.endswith(".tar"))])
        except Exception as error:
            table.row(number, f"{type(error).__name__}: {error}"[:90], holds=False)
    shown = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
    table.row(count, shown, holds=len(outcomes) > 1)
    return table


def _damage(folder: Path, contents: dict[str, bytes], rng: random.Random) -> str:
    """The set anew, with one file damaged: a tar under its old index, a sidecar, or a tar whose index is gone.

    Returns the file's name.
    """
    for path in folder.iterdir():
        path.unlink()
    victim = rng.choice([name for name in contents if name.endswith((".tar", ".idx"))])
    without_index = victim.endswith(".tar") and rng.random() < 0.5
    for name, data in contents.items():
        if without_index and not name.endswith(".tar"):
            continue
        path = folder / name
        path.write_bytes(index_fuzz.mutated(data, rng) if name == victim else data)
    if not without_index:
        _keep_versions(folder, contents)
    return victim


def _keep_versions(folder: Path, contents: dict[str, bytes]) -> None:
    """Give the shards the times that the manifest states: else the index would be made again."""
    (manifest,) = [data for name, data in contents.items() if name.endswith(".manifest")]
    for line in manifest.split(b"\n")[1:]:
        if line:
            name, _, _, version, _ = line.decode().split("\t")
            os.utime(folder / name, ns=(int(version), int(version)))


def _read(folder: Path, whole: dict[str, tuple[bytes, bytes]], intact: bool) -> str:
    """Every sample of the set once, by the reader of the training. Returns what came of it.

    intact: whether the tars are whole, so that no sample may come changed. Raises AssertionError.
    """
    run = config([str(folder)], max_skipped=1.0)
    try:
        data = open_training_set(run)
        dataset = BatchDataset(run, data, rank=0, world=1, local_from_position=0, board=Board(1))
    except ValueError as error:
        return _ended("refused", error)
    places = list(zip(*(n.tolist() for n in dataset.stream.locate(0, dataset.stream.samples_per_pass)), strict=True))
    reasons: Counter[str] = Counter()
    try:
        for found in dataset._reader.read(places):
            reasons[_outcome(found, whole)] += 1
    except RunStopped as error:
        return _ended("stopped", error)
    strange = reasons.keys() - ({"as written", "unusable"} if intact else OUTCOMES)
    if strange:
        raise AssertionError(f"{', '.join(strange)}, where no shard is damaged")
    return " and ".join(sorted(reasons))


def _ended(how: str, error: Exception) -> str:
    """Raises AssertionError for a message that no one could read."""
    if not 0 < len(str(error)) < 2000:
        raise AssertionError(f"{how} with a message of {len(str(error))} characters")
    return how


def _outcome(found: object, whole: dict[str, tuple[bytes, bytes]]) -> str:
    """Of one sample. A damaged payload is for the decoder to find: its bytes differ, its name does not."""
    if not isinstance(found, Sample):
        return "unusable"
    image, caption = found.column(["jpg"]), found.column(["txt"])
    if image is None or caption is None:
        return "unusable"
    expected = whole.get(found.key)
    if expected is None:
        return "another name"
    return "as written" if (image, caption) == expected else "damaged bytes"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the files, to see that it runs")
    parser.add_argument("--seed", type=int, default=0, help="other damage (0)")
    args = parser.parse_args(argv)
    count, images, sets = (50, 200, 10) if args.quick else (5000, 20_000, 500)
    tables = [
        check_files("tars", mutations.fuzz, count, args.seed),
        check_files("sidecars and manifests", index_fuzz.fuzz, count, args.seed),
        check_images(images, args.seed),
    ]
    with tempfile.TemporaryDirectory() as name:
        tables.append(check_sets(Path(name), sets, args.seed))
    finish(*tables)


if __name__ == "__main__":
    main()
