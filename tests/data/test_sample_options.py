"""The sample set's options: captions, shares of objects, unseen artists; and that the default set is what it was."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import webdataset

from silc.data.sample_set import render
from silc.data.sample_set.cache import SampleSet, ensure_sample
from silc.data.sample_set.concepts import ARTISTS, BRANDS, RESERVED, split_artists, with_article
from silc.data.sample_set.scenes import draw_scene

SMALL = {"scenes_train": 40, "scenes_eval": 8, "size": 16}
CAPTIONS = 2000
DEFAULTS = {"concepts": "default", "size": 48, "seed": 0, "scenes_train": 60, "scenes_eval": 48, "captions": "clean"}
# sha256 of scenes 0, 30 and 47 of each split, of the set before it had options.
EARLIER = {
    "train": "b9287867893b14b0",
    "unseen_artist": "e1270ab8fc7f4af6",
    "unseen_concept": "2747d6b39035f759",
    "both": "dcb0a0f5518bea1b",
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> SampleSet:
    return ensure_sample(tmp_path_factory.mktemp("clean"), **SMALL)


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> SampleSet:
    few = SMALL | {"scenes_train": CAPTIONS}
    return ensure_sample(tmp_path_factory.mktemp("web"), **few, captions="web", left_out=0.5, mismatched=0.2)


def read(rendered: SampleSet, split: str) -> list[dict]:
    return list(webdataset.WebDataset(rendered.shards(split), shardshuffle=False))


def said(caption: bytes) -> set[str]:
    """The noun phrases of a caption."""
    words = re.sub("^(a drawing of|a picture with) ", "", caption.decode())
    return set(re.split(", | and ", words))


def shown(entry: dict) -> set[str]:
    return {with_article(name) for name in json.loads(entry["json"])["concepts"]}


def assert_share(found: int, of: int, share: float) -> None:
    """Within four standard deviations of a binomial."""
    assert abs(found / of - share) < 4 * math.sqrt(share * (1 - share) / of), f"{found} of {of}"


def test_web_captions_leave_objects_out_and_some_are_another_scenes(web):
    entries = read(web, "train")
    assert len(entries) == CAPTIONS
    own = [entry for entry in entries if said(entry["txt"]) <= shown(entry)]
    others = [entry for entry in entries if not said(entry["txt"]) <= shown(entry)]
    assert_share(len(others), CAPTIONS, 0.2)
    scenes = [shown(entry) for entry in entries]
    for entry in others:  # what it names is what some other scene shows
        assert any(said(entry["txt"]) <= scene for scene in scenes)
    for objects in (1, 2, 3, 4):
        of = [entry for entry in own if len(shown(entry)) == objects]
        named = sum(len(said(entry["txt"])) for entry in of)
        assert_share(named, objects * len(of), 0.5 + 0.5**objects / objects if objects > 1 else 1 - 1e-9)


def test_web_and_clean_sets_have_the_same_images_and_test_captions(web, clean):
    few = read(web, "train")[: SMALL["scenes_train"]]
    for one, other in zip(few, read(clean, "train"), strict=True):
        assert {name: one[name] for name in ("jpg", "json", "mask.png")} == {
            name: other[name] for name in ("jpg", "json", "mask.png")
        }
        assert said(other["txt"]) == shown(other)
    assert any(one["txt"] != other["txt"] for one, other in zip(few, read(clean, "train"), strict=True))
    for split in ("unseen_artist", "unseen_concept", "both", "new_scenes"):
        pairs = zip(read(web, split), read(clean, split), strict=True)
        assert all(one["txt"] == other["txt"] and one["jpg"] == other["jpg"] for one, other in pairs)
    assert web.folder.name != clean.folder.name


def test_all_named_and_none_mismatched_are_the_objects_themselves(tmp_path):
    whole = ensure_sample(tmp_path, **SMALL, captions="web", left_out=0.0, mismatched=0.0)
    assert all(said(entry["txt"]) == shown(entry) for entry in read(whole, "train"))


def test_shares_of_web_captions_without_an_effect_name_no_other_set(clean):
    again = ensure_sample(clean.folder.parent, **SMALL, left_out=0.1, mismatched=0.9)
    assert again == clean


def test_the_default_set_is_the_one_before_there_were_options():
    plans = render.plan_splits(DEFAULTS | {"objects": [0.65, 0.2, 0.1, 0.05], "unseen": ["emojione"]})
    assert [plan.split for plan in plans] == [*EARLIER, "new_scenes"]
    for number, plan in enumerate(plans[: len(EARLIER)]):
        digest = hashlib.sha256()
        for index in (0, 30, 47):
            rng = np.random.default_rng([0, number, index])
            scene = draw_scene(rng, render.choose_drawings(rng, plan, index), 48)
            digest.update(scene.image.tobytes() + scene.mask.tobytes() + scene.caption.encode())
        assert digest.hexdigest()[:16] == EARLIER[plan.split]


def test_new_scenes_are_of_the_training_drawings_and_not_the_training_scenes(clean):
    index, train = clean.index("new_scenes"), clean.index("train")
    assert [index[name] for name in ("labels", "class_names", "drawings")] == [
        train[name] for name in ("labels", "class_names", "drawings")
    ]
    entries = read(clean, "new_scenes")
    assert [json.loads(entry["json"]).get("class") is not None for entry in entries] == [True] * 4 + [False] * 4
    assert not {entry["jpg"] for entry in entries} & {entry["jpg"] for entry in read(clean, "train")}


def counts(objects: list[float], singles: int, scenes: int) -> Counter:
    """How many scenes have how many objects, beyond the single ones."""
    drawings = [[concept] for concept in range(9)]
    plan = render.SplitPlan("x", [], [], drawings, scenes, singles, {"objects": objects})
    return Counter(
        len(render.choose_drawings(np.random.default_rng(i), plan, i)) for i in range(singles, singles + scenes)
    )


def test_shares_of_objects():
    assert counts([0, 0, 0, 0, 0, 0, 0, 1], 0, 50) == {8: 50}
    found = counts([2, 1, 0, 1], 0, 1000)
    assert set(found) == {1, 2, 4}
    for objects, share in ((1, 0.5), (2, 0.25), (4, 0.25)):
        assert_share(found[objects], 1000, share)
    found = counts([0.65, 0.2, 0.1, 0.05], 10, 1000)  # of an evaluation split: two and more
    assert set(found) == {2, 3, 4}
    assert_share(found[2], 1000, 0.2 / 0.35)


def test_shares_need_not_add_up_to_one(tmp_path):
    few = {"scenes_train": 2, "scenes_eval": 2, "size": 16}
    one = ensure_sample(tmp_path, **few, objects=(1, 3))
    assert one.index("train")["settings"]["objects"] == [0.25, 0.75]
    assert ensure_sample(tmp_path, **few, objects=(0.25, 0.75)) == one


def test_unseen_artists_are_the_test_artists_alone(tmp_path):
    few = ensure_sample(tmp_path, **SMALL, unseen=("twemoji",))
    drawn = {split: set(few.index(split)["artists"]) for split in ("train", "unseen_artist", "both", "new_scenes")}
    assert drawn["unseen_artist"] == drawn["both"] == {"twemoji"}
    assert drawn["train"] == drawn["new_scenes"] == set(ARTISTS) - {"twemoji", RESERVED}


@pytest.mark.parametrize("brand", BRANDS)
def test_a_brand_is_on_one_side(brand):
    trained, unseen = split_artists(brand)
    assert set(unseen) == set(brand)
    assert not set(trained) & {*brand, RESERVED}
    for one in brand:
        with pytest.raises(ValueError, match="resemble each other; name both, or neither"):
            split_artists([one])


def test_artists_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="no unseen artist is given"):
        split_artists([])
    with pytest.raises(ValueError, match="'picasso': choose among emojione, fluent"):
        split_artists(["picasso"])
    with pytest.raises(ValueError, match="nobody is left to train on"):
        split_artists([name for name in ARTISTS if name != RESERVED])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"left_out": 1.5}, "left_out is 1.5: give a share between 0 and 1"),
        ({"mismatched": -0.1}, "mismatched is -0.1: give a share between 0 and 1"),
        ({"objects": []}, r"objects is \[\]: give 2 to 8 shares"),
        ({"objects": [1]}, r"objects is \[1\]: give 2 to 8 shares"),
        ({"objects": [1] * 9}, "give 2 to 8 shares"),
        ({"objects": [1, 0, 0]}, "some for two or more"),
        ({"objects": [1, -1, 2]}, "none negative"),
        ({"unseen": ["noto"]}, "noto and noto-v1 resemble each other"),
        ({"unseen": []}, "no unseen artist"),
    ],
)
def test_options_out_of_range_are_named(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        ensure_sample(tmp_path, **option)
    assert not list(tmp_path.iterdir())
