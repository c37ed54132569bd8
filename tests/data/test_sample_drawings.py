"""The embedded drawings: what is committed is what the manifest and NOTICE say, and the recipe keeps its rules."""

from __future__ import annotations

import bz2
import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from silc.data.sample_set.concepts import (
    ARTISTS,
    DEFAULT_HELD_OUT,
    DEFAULT_TRAIN,
    concept_names,
    with_article,
)
from silc.data.sample_set.render import DRAWINGS, cut_out, read_drawings

ROOT = Path(__file__).parents[2]
MANIFEST = json.loads((DRAWINGS / "manifest.json").read_text())
LICENCES = {"Apache-2.0", "MIT", "CC-BY-4.0"}
CORE = {"emojione", "noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "twemoji"}


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("make_sample", ROOT / "tools" / "make_sample.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def members(shard: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(bz2.decompress((DRAWINGS / shard).read_bytes()))) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def test_committed_shards_are_the_manifests():
    committed = {path.name for path in DRAWINGS.iterdir()}
    assert committed == {*MANIFEST["shards"], "manifest.json", "NOTICE"}
    for name, shard in MANIFEST["shards"].items():
        assert hashlib.sha256((DRAWINGS / name).read_bytes()).hexdigest() == shard["sha256"], name
    assert sum(path.stat().st_size for path in DRAWINGS.iterdir()) <= 16_000_000


def test_counts():
    drawings = read_drawings()
    drawn = Counter(artist for by_artist in drawings.values() for artist in by_artist)
    assert drawn == {shard["name"]: shard["drawings"] for shard in MANIFEST["shards"].values()}
    assert len(drawings) == MANIFEST["concepts"] >= 1574
    assert drawn.total() == MANIFEST["drawings"] >= 9030
    assert set(drawn) == set(ARTISTS)


@pytest.mark.parametrize("name", MANIFEST["shards"])
def test_shard_members(name):
    shard = MANIFEST["shards"][name]
    held = members(name)
    keys = [member.name.partition(".")[0] for member, _ in held]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) // 2
    for member, data in held:
        assert (member.uid, member.gid, member.mtime, member.uname, member.gname) == (0, 0, 0, "", "")
        if member.name.endswith(".json"):
            meta = json.loads(data)
            assert member.name == f"{shard['name']}-{meta['hexcode']}.json"
            assert meta["licence"] == shard["licence"] in LICENCES
            assert meta["artist"] == shard["name"]
            assert meta["author"] == shard["author"]
            assert meta["concept"]
            assert meta["group"] not in ("flags", "component")
    images = [data for member, data in held if member.name.endswith(".webp")]
    assert len(images) == shard["drawings"] == len(held) // 2
    assert len(set(images)) > 0.99 * len(images)
    for data in images[::100]:
        image = Image.open(io.BytesIO(data))
        assert (image.format, image.size, image.mode) == ("WEBP", (64, 64), "RGBA")


def test_webdataset_reads_a_shard():
    shard = MANIFEST["shards"]["streamline-emojis.tar.bz2"]
    samples = list(webdataset.WebDataset(str(DRAWINGS / "streamline-emojis.tar.bz2"), shardshuffle=False))
    assert len(samples) == shard["drawings"]
    assert all({"webp", "json"} <= set(sample) for sample in samples)


@pytest.mark.parametrize("notice", [ROOT / "NOTICE", DRAWINGS / "NOTICE"], ids=["project", "shards"])
def test_notice_names_every_source(notice):
    said = notice.read_text()
    for source in (*MANIFEST["shards"].values(), MANIFEST["labels"]):
        block = said[said.index(f"\n{source['name']}") :][:400]
        for word in ("author", "url", "package", "version", "licence"):
            assert source[word].split(" (")[0] in block, (source["name"], word)


def test_default_concepts_are_drawn_by_all_core_artists():
    drawings = read_drawings()
    assert len(DEFAULT_TRAIN) == 128
    assert len(DEFAULT_HELD_OUT) == 24
    names = [*DEFAULT_TRAIN.values(), *DEFAULT_HELD_OUT.values()]
    assert len({name.lower() for name in names}) == len(names)
    assert not DEFAULT_TRAIN.keys() & DEFAULT_HELD_OUT.keys()
    for label in (*DEFAULT_TRAIN, *DEFAULT_HELD_OUT):
        assert CORE.issubset(drawings[label]), label


def test_all_concepts_leave_out_the_held_out_ones():
    train, held_out = concept_names("all", list(read_drawings()))
    assert held_out == DEFAULT_HELD_OUT
    assert len(train) > 1500
    assert len(set(train.values())) == len(train)
    assert DEFAULT_TRAIN.items() <= train.items()
    for name in held_out.values():
        assert not [label for label in train if f" {name} " in f" {label} "], name
    with pytest.raises(ValueError, match=r'"some".*"default" or "all"'):
        concept_names("some", [])


def test_articles():
    nouns = ("dog", "owl", "unicorn", "ice cream", "grapes", "honey pot", "umbrella")
    assert [with_article(noun) for noun in nouns] == [
        "a dog",
        "an owl",
        "a unicorn",
        "an ice cream",
        "grapes",
        "a honey pot",
        "an umbrella",
    ]


def test_cut_out_keeps_the_opaque_part():
    canvas = np.zeros((64, 64, 4), np.uint8)
    canvas[10:30, 5:50] = (255, 0, 0, 255)
    canvas[40, 60] = (0, 0, 0, 3)  # a trace of shadow
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "WEBP", lossless=True, exact=True)
    assert np.array_equal(cut_out(buffer.getvalue()), canvas[10:30, 5:50])


# The recipe, without the network --------------------------------------------------------------------------------------


def test_names_match_by_letters_and_digits(recipe):
    assert recipe.reduced("Man\u2019s shoe") == recipe.reduced("mans-shoe") == "mansshoe"
    assert recipe.reduced("piñata") == recipe.reduced("Pinata")


def test_a_drawing_stands_for_one_concept(recipe):
    icons = {
        "icons": {name: {"body": name[:3]} for name in ("red-apple", "pear", "pearl", "dog-1", "bear")},
        "aliases": {
            "apple": {"parent": "red-apple"},
            "dog": {"parent": "hound"},
            "hound": {"parent": "dog-1"},
            "mirrored": {"parent": "bear", "hFlip": True},
        },
    }
    wanted = ("apple", "redapple", "pear", "pearl", "dog", "mirrored")
    matched = recipe.match_icons(icons, {name: {} for name in wanted})
    assert matched == {"redapple": "red-apple", "pear": "pear", "dog": "dog-1"}


def test_render_is_centered_and_repeatable(recipe):
    icons = {"width": 20, "height": 10, "icons": {"bar": {"body": '<path fill="#f00" d="M0 0h20v10H0z"/>'}}}
    data = recipe.render(icons, "bar")
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (64, 64, 4)
    assert (pixels[16:48, :, 3] == 255).all()
    assert not pixels[:15, :, 3].any()
    assert not pixels[49:, :, 3].any()
    assert recipe.render(icons, "bar") == data


def test_a_package_other_than_the_pinned_one_is_refused(recipe, monkeypatch, tmp_path):
    def pack(command, **kwargs):
        (tmp_path / "other.tgz").write_bytes(b"another package")
        return subprocess.CompletedProcess(command, 0, stdout="other.tgz\n")

    monkeypatch.setattr(subprocess, "run", pack)
    with pytest.raises(ValueError, match=r"noto@1\.2\.9: integrity sha512-.*pinned sha512-DQiu"):
        recipe.fetch(next(artist for artist in recipe.ARTISTS if artist.name == "noto"), tmp_path)


def test_the_manifest_repeats_the_recipes_pins(recipe):
    for artist in recipe.ARTISTS:
        shard = MANIFEST["shards"][f"{artist.name}.tar.bz2"]
        assert (shard["package"], shard["version"], shard["integrity"]) == (
            artist.package,
            artist.version,
            artist.integrity,
        )
    assert (DRAWINGS / "NOTICE").read_text() == recipe.notice()
