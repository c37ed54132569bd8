"""Test data by artists outside the sample set: drawings that no training, and no choice made with the sample set, saw.

    python tools/outside_artists.py OUT                         fetch, verify, render: OUT/openmoji, OUT/emojione-v1
    python tools/outside_artists.py OUT --together              OUT/together too: these artists and EmojiOne in one
    python tools/outside_artists.py OUT --sample data/sample/default-1a2b3c4d     beside a rendered sample set

Two sets of emoji whose licence, CC-BY-SA-4.0, keeps them from being embedded are fetched as tools/make_sample.py does
with its own, and their drawings of the sample set's training concepts are composed to scenes as those of its split
"unseen_artist" are: with the same seed and sizes, and half of them with one object. Each folder is a data set in
CLIP_benchmark's layout:

    classnames.txt, classes.txt               names as in the captions, for wds:FOLDER and for eval.shards
    zeroshot_classification_templates.txt     the sample set's two prompts
    test/0.tar, ...                           jpg, txt, mask.png, json (with `class` for one object)
    train -> ../train                         the sample set's training scenes, `cls` added to those of one object, so
                                              that few-shot classifiers and segmentation heads can be fitted to them;
                                              with a NOTICE of their own, and the settings of the set that they are of
    NOTICE                                    attribution; scenes made from these drawings are under the same licence

    silc evaluate RUN eval.classification=wds:FOLDER eval.retrieval=wds:FOLDER eval.segmentation=wds:FOLDER

Data sets that are in OUT are kept as they are, and those that are missing are made beside them.

With --together their drawings and those of the sample set's own unseen artists form one more data set: of one artist
there are 128 drawings at most, and the choice of so few weighs more in a metric than the seed of a training.

OpenMoji is line art. EmojiOne v1 resembles EmojiOne, which the sample set never trains on. Needs what make_sample.py
needs.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from make_sample import ARTISTS, LABELS, Source, fetch, match_icons, read_concepts, render
from tqdm import tqdm

from silc.config_io import load_config
from silc.data.sample_set import SampleSet, default_root, ensure_sample
from silc.data.sample_set.concepts import SPLITS, with_article
from silc.data.sample_set.render import (
    DRAWINGS,
    SHARD,
    SplitPlan,
    choose_drawings,
    cut_out,
    encode_scene,
    read_drawings,
)
from silc.data.sample_set.scenes import Drawing, draw_scene
from silc.evaluate.datasets import sample_settings

OUTSIDE = (
    Source(
        "openmoji",
        "@iconify-json/openmoji",
        "1.2.29",
        "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "OpenMoji",
        "https://github.com/hfg-gmuend/openmoji",
        "CC-BY-SA-4.0",
    ),
    Source(
        "emojione-v1",
        "@iconify-json/emojione-v1",
        "1.2.3",
        "sha512-UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==",
        "Emoji One",
        "https://github.com/joypixels/emojione-legacy",
        "CC-BY-SA-4.0",
    ),
)
TOGETHER = "together"
SPLIT = "unseen_artist"  # whose scenes these are composed like
SETTINGS = "settings.json"  # in train: of the sample set whose scenes these are
PROMPTS = ("{c}", "a drawing of {c}")  # silc.evaluate.datasets.of_sample's, in CLIP_benchmark's spelling


def drawings_of(icons: dict[str, Any], concepts: dict[str, dict[str, Any]], labels: list[str]) -> dict[str, bytes]:
    """Emoji label -> WebP of the artist's drawing, for those of `labels` that there is one of.

    icons: of an Iconify package. concepts: see make_sample.read_concepts.
    """
    wanted = set(labels)
    matched = {str(concepts[key]["concept"]): icon for key, icon in match_icons(icons, concepts).items()}
    return {label: render(icons, icon) for label, icon in sorted(matched.items()) if label in wanted}


def plan_scenes(sample: SampleSet, drawings: Mapping[str, Mapping[str, bytes]], scenes: int) -> SplitPlan:
    """What `scenes` scenes are composed from: the training concepts of `sample`, drawn by the artists.

    drawings: artist -> emoji label -> WebP.

    Raises ValueError for artists who draw none of them.
    """
    index = sample.index("train")
    named = enumerate(zip(index["labels"], index["class_names"], strict=True))
    every = [
        [Drawing(cut_out(drawn[label]), i, name, artist) for artist, drawn in drawings.items() if label in drawn]
        for i, (label, name) in named
    ]
    rows = [row for row in every if row]
    if not rows:
        raise ValueError(f"{' and '.join(drawings)}: none of the {len(every)} concepts of {sample.folder} is drawn")
    return SplitPlan(
        split=SPLIT,
        names=index["class_names"],
        labels=index["labels"],
        drawings=rows,
        scenes=scenes,
        singles=scenes // 2,
        settings=index["settings"],
    )


def compose(plan: SplitPlan) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, members by extension) of every scene, each a function of the seed and its number, as the sample set's."""
    settings = plan.settings
    for index in range(plan.scenes):
        rng = np.random.default_rng([settings["seed"], SPLITS.index(SPLIT), index])
        drawings = choose_drawings(rng, plan, index)
        yield f"{plan.split}-{index:06d}", encode_scene(draw_scene(rng, drawings, settings["size"]), drawings, plan)


def write_test(folder: Path, plan: SplitPlan) -> None:
    """The scenes as shards, and how many shards there are."""
    folder.mkdir(parents=True)
    scenes = compose(plan)
    counts = [min(SHARD, plan.scenes - first) for first in range(0, plan.scenes, SHARD)]
    with tqdm(total=plan.scenes, unit="scene", desc=folder.parent.name, leave=False) as bar:
        for number, count in enumerate(counts):
            with tarfile.open(folder / f"{number}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                for _ in range(count):
                    key, members = next(scenes)
                    for extension, data in members.items():
                        add(tar, f"{key}.{extension}", data)
                    bar.update()
    (folder / "nshards.txt").write_text(f"{len(counts)}\n")


def check_train(out: Path, sample: SampleSet) -> None:
    """Raises ValueError where OUT/train holds scenes of another sample set, whose classes have other numbers; and where
    it is gone and data sets that need it are there.
    """
    names = (*(source.name for source in OUTSIDE), TOGETHER)
    train, needing = out / "train", [str(out / name) for name in names if (out / name).exists()]
    if not train.exists():
        if needing:
            raise ValueError(f"{train} is gone, which {' and '.join(needing)} need; remove these, or give another OUT")
        return
    try:
        written = json.loads((train / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        written = None
    if written != sample.index("train")["settings"]:
        raise ValueError(
            f"{train} holds scenes of another sample set than {sample.folder}, or does not say of which: give the "
            "--sample that it was written with, or another OUT"
        )


def write_train(folder: Path, sample: SampleSet) -> None:
    """The training scenes, `cls` added to those of one object: a wds knows no other way to name a scene's class."""
    folder.mkdir(parents=True)
    shards = sample.shards("train")
    for number, shard in enumerate(tqdm(shards, unit="shard", desc="training scenes", leave=False)):
        with (
            tarfile.open(shard) as given,
            tarfile.open(folder / f"{number}.tar", "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for member in given:
                file = given.extractfile(member)
                assert file is not None  # they are all regular files
                data = file.read()
                add(tar, member.name, data)
                if member.name.endswith(".json"):
                    info = json.loads(data)
                    if info["objects"] == 1:
                        add(tar, member.name.removesuffix("json") + "cls", str(info["concept_ids"][0]).encode())
    (folder / "nshards.txt").write_text(f"{len(shards)}\n")
    (folder / SETTINGS).write_text(json.dumps(sample.index("train")["settings"], indent=1) + "\n", encoding="utf-8")
    drawn = (DRAWINGS / "NOTICE").read_text(encoding="utf-8")
    (folder / "NOTICE").write_text(f"The scenes are composed from the drawings that are named here.\n\n{drawn}")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member, of no owner and no time."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_words(folder: Path, sample: SampleSet, sources: Sequence[Source]) -> None:
    """Class names, prompts and attribution."""
    names = "".join(f"{with_article(name)}\n" for name in sample.class_names("train"))
    for name in ("classnames.txt", "classes.txt"):
        (folder / name).write_text(names, encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    by = "".join(
        f"- {source.author}, {source.url} (package {source.package} {source.version}), licence {source.licence}\n"
        for source in sources
    )
    (folder / "NOTICE").write_text(
        f"The scenes in test are composed from drawings by\n{by}and are under their licence; with several, under that\n"
        "which asks for the most, CC-BY-SA-4.0.\n"
        f"Names come from emojibase: by {LABELS.author}, {LABELS.url}, licence {LABELS.licence}.\n"
    )


def fetched(source: Source, labels: list[str]) -> dict[str, bytes]:
    """Emoji label -> WebP of the artist's drawing. Raises ValueError where a package cannot be had as it is pinned."""
    with tempfile.TemporaryDirectory() as scratch:
        names, files = (fetched_package(one, Path(scratch)) for one in (LABELS, source))
    return drawings_of(json.loads(files["icons.json"]), read_concepts(names), labels)


def fetched_package(source: Source, scratch: Path) -> dict[str, bytes]:
    """As make_sample.fetch. Raises ValueError that says what to do."""
    name = f"{source.package}@{source.version}"
    try:
        return fetch(source, scratch)
    except FileNotFoundError:
        raise ValueError("npm is not there to fetch packages with; install it, it comes with Node.js") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(
            f"npm did not fetch {name} (status {error.returncode}): see what `npm pack {name}` says here; it needs a "
            "network, and a registry that has the package (npm config get registry)"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{error}: it is not the package that is meant; take npm's own registry: npm config delete registry"
        ) from None


def embedded(sample: SampleSet) -> dict[Source, dict[str, bytes]]:
    """Those of the artists that the sample set is tested on: emoji label -> WebP."""
    names, stored = sample.index(SPLIT)["artists"], read_drawings()
    return {
        source: {label: drawn[source.name] for label, drawn in stored.items() if source.name in drawn}
        for source in ARTISTS
        if source.name in names
    }


def build(
    name: str, drawings: Mapping[Source, Mapping[str, bytes]], out: Path, sample: SampleSet, scenes: int
) -> SplitPlan:
    """Write OUT/{name}, scenes of the drawings, beside OUT/train; returns what they are composed from."""
    plan = plan_scenes(sample, {source.name: drawn for source, drawn in drawings.items()}, scenes)
    partial = out / f"{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was stopped
    write_test(partial / "test", plan)
    write_words(partial, sample, list(drawings))
    (partial / "train").symlink_to(Path("..") / "train")
    partial.rename(out / name)
    return plan


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the data sets; those that are there are kept")
    parser.add_argument("--artist", choices=[source.name for source in OUTSIDE], help="one of them only")
    parser.add_argument("--scenes", type=int, default=1024, help="of each artist, half of them with one object (1024)")
    parser.add_argument("--together", action="store_true", help=f"OUT/{TOGETHER} too, with the unseen artists")
    parser.add_argument("--sample", type=Path, help="folder of a rendered sample set (that of the preset `sample`)")
    given = parser.parse_args(words)
    if given.scenes < 2:
        parser.error(f"--scenes is {given.scenes}: at least 2 are needed")
    if given.sample is not None and not (given.sample / "train" / "index.json").is_file():
        parser.error(f"--sample {given.sample} is no rendered sample set: it has no train/index.json")
    chosen = [source for source in OUTSIDE if given.artist in (None, source.name)]
    names = [source.name for source in chosen] + [TOGETHER] * given.together
    for name in (name for name in names if (given.out / name).exists()):
        print(f"{given.out / name}: kept as it is; to have another one, remove it or give another OUT", flush=True)
    missing = [name for name in names if not (given.out / name).exists()]
    if not missing and (given.out / "train").exists():
        return 0
    settings = sample_settings(load_config("sample").data)
    sample = ensure_sample(default_root(), **settings) if given.sample is None else SampleSet(given.sample)
    try:
        check_train(given.out, sample)
        labels = sample.index("train")["labels"]
        needed = chosen if TOGETHER in missing else [source for source in chosen if source.name in missing]
        drawings = {source: fetched(source, labels) for source in needed}
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if not (given.out / "train").exists():
        partial = given.out / "train.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write_train(partial, sample)
        partial.rename(given.out / "train")
    sets: dict[str, Mapping[Source, Mapping[str, bytes]]] = {one.name: {one: drawn} for one, drawn in drawings.items()}
    if TOGETHER in missing:
        sets[TOGETHER] = embedded(sample) | drawings
    for name in missing:
        plan = build(name, sets[name], given.out, sample, given.scenes)
        print(
            f"{given.out / name}: {given.scenes} scenes of {sum(map(len, plan.drawings))} drawings of "
            f"{len(plan.drawings)} of {len(labels)} concepts",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
