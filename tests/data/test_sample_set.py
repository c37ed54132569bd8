"""The rendered sample set: splits, shards, and that it is rendered once, also for several processes."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import webdataset
from PIL import Image

from silc.data.sample_set import cache, render
from silc.data.sample_set.cache import SampleSet, default_root, ensure_sample
from silc.data.sample_set.concepts import RESERVED, SPLITS, split_artists, with_article

SHARES = {"objects": [0.65, 0.2, 0.1, 0.05]}
SCENES = {"scenes_train": 60, "scenes_eval": 48, "size": 48}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> SampleSet:
    return ensure_sample(tmp_path_factory.mktemp("sample"), **SCENES)


def read(rendered: SampleSet, split: str) -> list[dict]:
    """The split's samples through webdataset, json decoded."""
    samples = list(webdataset.WebDataset(rendered.shards(split), shardshuffle=False))
    return [dict(entry, json=json.loads(entry["json"])) for entry in samples]


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every shard, by path in the set's folder."""
    shards = folder.rglob("*.tar")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in shards}


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_reads_as_its_index_says(rendered, split):
    index, samples = rendered.index(split), read(rendered, split)
    names = rendered.class_names(split)
    assert len(samples) == index["scenes"] == sum(shard["scenes"] for shard in index["shards"])
    assert index["settings"].items() >= {**SCENES, "seed": 0, "concepts": "default"}.items()
    assert len(index["settings"]["sha256"]) == 64
    for entry in samples:
        info = entry["json"]
        assert info["split"] == split
        assert [names[i] for i in info["concept_ids"]] == info["concepts"]
        assert len(set(info["concept_ids"])) == info["objects"] == len(info["boxes"]) == len(info["artists"])
        assert set(info["artists"]) <= set(index["artists"])
        assert all(with_article(name) in entry["txt"].decode() for name in info["concepts"])
        image, mask = Image.open(io.BytesIO(entry["jpg"])), np.array(Image.open(io.BytesIO(entry["mask.png"])))
        assert image.size == (48, 48)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) - {0} == {i + 1 for i in info["concept_ids"]}


def test_splits_hold_artists_and_concepts_apart(rendered):
    def artists(split):
        return {artist for entry in read(rendered, split) for artist in entry["json"]["artists"]}

    trained, unseen = map(set, split_artists([RESERVED]))
    assert not trained & unseen
    assert artists("train") <= trained
    assert artists("unseen_concept") <= trained
    assert artists("new_scenes") <= trained
    assert artists("unseen_artist") == artists("both") == unseen == {RESERVED}
    assert rendered.class_names("train") == rendered.class_names("unseen_artist") == rendered.class_names("new_scenes")
    assert rendered.class_names("unseen_concept") == rendered.class_names("both")
    assert not set(rendered.index("train")["labels"]) & set(rendered.index("both")["labels"])
    assert len(rendered.class_names("train")) == 128
    assert len(rendered.class_names("both")) == 24


def test_evaluation_begins_with_single_objects_dealt_evenly(rendered):
    infos = [entry["json"] for entry in read(rendered, "unseen_concept")]
    objects = [info["objects"] for info in infos]
    assert objects[:24] == [1] * 24
    assert min(objects[24:]) >= 2
    assert [info["concept_ids"] for info in infos[:24]] == [[i] for i in range(24)]


def test_singles_take_the_artists_in_turn():
    drawings = [[f"{concept}-{artist}" for artist in range(artists)] for concept, artists in enumerate((2, 3))]
    plan = render.SplitPlan("both", [], [], drawings, scenes=24, singles=12, settings={})
    chosen = [render.choose_drawings(np.random.default_rng(0), plan, i)[0] for i in range(12)]
    assert Counter(chosen) == {"0-0": 3, "0-1": 3, "1-0": 2, "1-1": 2, "1-2": 2}


def test_training_scenes_are_mostly_of_one_object():
    drawings = [[concept] for concept in range(9)]
    plan = render.SplitPlan("train", [], [], drawings, scenes=4000, singles=0, settings=SHARES)
    counts = Counter(len(render.choose_drawings(np.random.default_rng(i), plan, i)) for i in range(4000))
    assert set(counts) == {1, 2, 3, 4}
    assert 0.62 < counts[1] / 4000 < 0.68


def test_same_settings_render_nothing_and_others_stay_beside(rendered, monkeypatch, capsys):
    def no_render(*args):
        raise AssertionError("rendered again")

    monkeypatch.setattr(cache, "render_splits", no_render)
    assert ensure_sample(rendered.folder.parent, **SCENES) == rendered
    assert capsys.readouterr().out == ""
    for change in ({"seed": 1}, {"size": 50}, {"concepts": "all"}):
        with pytest.raises(AssertionError, match="rendered again"):
            ensure_sample(rendered.folder.parent, **(SCENES | change))


def test_bytes_do_not_depend_on_processes_and_seeds_matter(rendered, tmp_path, monkeypatch):
    monkeypatch.setattr(render.os, "sched_getaffinity", lambda pid: {0})
    (tmp_path / rendered.folder.with_suffix(".partial").name / "stopped").mkdir(parents=True)
    again = ensure_sample(tmp_path, **SCENES)
    assert digests(again.folder) == digests(rendered.folder)
    assert {path.name for path in tmp_path.iterdir()} == {again.folder.name, f"{again.folder.name}.lock"}
    other = ensure_sample(tmp_path, **SCENES, seed=1)
    assert not set(digests(other.folder).values()) & set(digests(rendered.folder).values())


def test_shards_are_cut_without_changing_scenes(rendered, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "SHARD", 25)
    cut = ensure_sample(tmp_path, **SCENES)
    assert [shard["scenes"] for shard in cut.index("train")["shards"]] == [25, 25, 10]
    assert [entry["jpg"] for entry in read(cut, "train")] == [entry["jpg"] for entry in read(rendered, "train")]


def _ensure(root: Path, results) -> None:
    results.put(str(ensure_sample(root, scenes_train=8, scenes_eval=4, size=32).folder))


def test_processes_that_start_together_render_once(tmp_path, capfd):
    render.read_drawings()  # shared with the children below
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    started = [context.Process(target=_ensure, args=(tmp_path, results)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert len({results.get() for _ in started}) == 1
    assert capfd.readouterr().out.count("rendering 24 scenes") == 1


def test_all_concepts_render(tmp_path):
    everything = ensure_sample(tmp_path, concepts="all", scenes_train=20, scenes_eval=4, size=32)
    assert len(everything.class_names("train")) > 1500
    assert everything.index("unseen_artist")["drawings"] < len(everything.class_names("unseen_artist"))
    for entry in read(everything, "train"):
        mask = np.array(Image.open(io.BytesIO(entry["mask.png"])))
        assert set(np.unique(mask)) - {0} <= {i + 1 for i in entry["json"]["concept_ids"]}
        assert mask.dtype != np.uint8


def test_wrong_arguments_are_named(tmp_path, rendered):
    with pytest.raises(ValueError, match="scenes_eval is 1: at least 2"):
        ensure_sample(tmp_path, scenes_eval=1)
    with pytest.raises(ValueError, match="size is 8: at least 16"):
        ensure_sample(tmp_path, size=8)
    with pytest.raises(ValueError, match='"most": choose "default" or "all"'):
        ensure_sample(tmp_path, concepts="most")
    with pytest.raises(ValueError, match='split "test": choose one of train, unseen_artist'):
        rendered.shards("test")


def test_default_root(monkeypatch):
    monkeypatch.setenv("SILC_DATA", "/somewhere/else")
    assert default_root() == Path("/somewhere/else")
    monkeypatch.delenv("SILC_DATA")
    assert default_root() == Path("data/sample")


RENDERS = """
import sys
from pathlib import Path
from silc.data.sample_set.cache import ensure_sample
from silc.train.stop import StartInterrupted, StopRequest
with StopRequest(starting=True):
    try:
        ensure_sample(Path(sys.argv[1]), size=96, scenes_train=2_000_000)
    except StartInterrupted:
        sys.exit(75)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_rendering_that_is_stopped_leaves_no_process(tmp_path, number, status):
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'kernels'}"}
    command = [sys.executable, "-c", RENDERS, str(tmp_path)]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        ends = time.monotonic() + 60
        while not list(tmp_path.glob("*/train/*.tar")):
            assert time.monotonic() < ends
            time.sleep(0.1)
        helpers = psutil.Process(process.pid).children(recursive=True)
        assert helpers
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    _, alive = psutil.wait_procs(helpers, timeout=30)
    for one in alive:
        one.kill()
    assert not alive
    assert (process.returncode, err) == (status, "")
