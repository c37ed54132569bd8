"""Test data by artists outside the sample set: drawings that no training, and no choice made with the sample set, saw.

    python tools/outside_artists.py OUT                         fetch, verify, render: OUT/openmoji, OUT/emojione-v1
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

OpenMoji is line art. EmojiOne v1 resembles EmojiOne, which the sample set never trains on. Needs what make_sample.py
needs.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from make_sample import LABELS, Source, fetch, match_icons, read_concepts, render
from tqdm import tqdm

from silc.config_io import load_config
from silc.data.sample_set import SampleSet, default_root, ensure_sample
from silc.data.sample_set.concepts import SPLITS, with_article
from silc.data.sample_set.render import DRAWINGS, SHARD, SplitPlan, choose_drawings, cut_out, encode_scene
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


def plan_scenes(sample: SampleSet, artist: str, drawings: Mapping[str, bytes], scenes: int) -> SplitPlan:
    """What `scenes` scenes are composed from: the training concepts of `sample`, drawn by the artist.

    Raises ValueError for an artist who draws none of them.
    """
    index = sample.index("train")
    named = enumerate(zip(index["labels"], index["class_names"], strict=True))
    rows = [[Drawing(cut_out(drawings[label]), i, name, artist)] for i, (label, name) in named if label in drawings]
    if not rows:
        raise ValueError(f"{artist} draws none of the {len(index['labels'])} concepts of {sample.folder}")
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
    train, needing = out / "train", [str(out / one.name) for one in OUTSIDE if (out / one.name).exists()]
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


def write_words(folder: Path, sample: SampleSet, source: Source) -> None:
    """Class names, prompts and attribution."""
    names = "".join(f"{with_article(name)}\n" for name in sample.class_names("train"))
    for name in ("classnames.txt", "classes.txt"):
        (folder / name).write_text(names, encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    (folder / "NOTICE").write_text(
        f"The scenes in test are composed from drawings by {source.author}, {source.url}\n"
        f"(package {source.package} {source.version}), and are under their licence, {source.licence}.\n"
        f"Names come from emojibase: by {LABELS.author}, {LABELS.url}, licence {LABELS.licence}.\n"
    )


def build(source: Source, out: Path, sample: SampleSet, scenes: int) -> tuple[int, int]:
    """Write OUT/{artist}, beside OUT/train; returns how many of the concepts the artist draws, and of how many.

    Raises ValueError where the package is not the pinned one.
    """
    labels = sample.index("train")["labels"]
    with tempfile.TemporaryDirectory() as scratch:
        concepts = read_concepts(fetch(LABELS, Path(scratch)))
        icons = json.loads(fetch(source, Path(scratch))["icons.json"])
    plan = plan_scenes(sample, source.name, drawings_of(icons, concepts, labels), scenes)
    partial = out / f"{source.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was stopped
    write_test(partial / "test", plan)
    write_words(partial, sample, source)
    (partial / "train").symlink_to(Path("..") / "train")
    partial.rename(out / source.name)
    return len(plan.drawings), len(labels)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the data sets; what is there is kept")
    parser.add_argument("--artist", choices=[source.name for source in OUTSIDE], help="one of them only")
    parser.add_argument("--scenes", type=int, default=1024, help="of each artist, half of them with one object (1024)")
    parser.add_argument("--sample", type=Path, help="folder of a rendered sample set (that of the preset `sample`)")
    given = parser.parse_args(words)
    if given.scenes < 2:
        parser.error(f"--scenes is {given.scenes}: at least 2 are needed")
    if given.sample is not None and not (given.sample / "train" / "index.json").is_file():
        parser.error(f"--sample {given.sample} is no rendered sample set: it has no train/index.json")
    chosen = [source for source in OUTSIDE if given.artist in (None, source.name)]
    there = [str(given.out / source.name) for source in chosen if (given.out / source.name).exists()]
    if there:
        parser.error(f"{', '.join(there)}: exists, and nothing is overwritten; remove it, or give another OUT")
    settings = sample_settings(load_config("sample").data)
    sample = ensure_sample(default_root(), **settings) if given.sample is None else SampleSet(given.sample)
    try:
        check_train(given.out, sample)
    except ValueError as error:
        parser.error(str(error))
    if not (given.out / "train").exists():
        partial = given.out / "train.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write_train(partial, sample)
        partial.rename(given.out / "train")
    for source in chosen:
        drawn, concepts = build(source, given.out, sample, given.scenes)
        print(f"{given.out / source.name}: {given.scenes} scenes of {drawn} of {concepts} concepts", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
