"""tools/outside_artists.py: its scenes are composed as the sample set's, and `silc evaluate` reads its folders."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from silc.config import DataConfig
from silc.data.layouts import open_data_set
from silc.data.sample_set import SampleSet, ensure_sample
from silc.data.sample_set.concepts import RESERVED, with_article
from silc.data.sample_set.render import read_drawings
from silc.data.splits import CAPTIONS, LABELS, MASKS

TOOLS = Path(__file__).parents[2] / "tools"
SMALL = {"scenes_train": 40, "scenes_eval": 12, "size": 32}
ICONS = {"dog-face": "red", "owl": "green", "grapes": "blue", "zombie": "black", "owl-again": "green"}


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    try:
        yield importlib.import_module("outside_artists")
    finally:
        sys.path.remove(str(TOOLS))
        for name in ("outside_artists", "make_sample"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> SampleSet:
    return ensure_sample(tmp_path_factory.mktemp("sample"), **SMALL)


def members(shards: list[Path]) -> list[tuple[str, bytes]]:
    found = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            found += [(member.name, tar.extractfile(member).read()) for member in tar]
    return found


def fake(source, folder):
    """What a package holds, without npm: squares of one color each, and the labels of emoji."""
    if source.name == "emojibase":
        entries = [
            {"label": name.replace("-", " "), "hexcode": f"1F{n}", "group": 0, "subgroup": 0}
            for n, name in enumerate(ICONS)
        ]
        groups = {"groups": {"0": "things"}, "subgroups": {"0": "all"}}
        return {"meta/groups.json": json.dumps(groups).encode(), "en/data.json": json.dumps(entries).encode()}
    bodies = {name: {"body": f'<path fill="{color}" d="M2 2h12v12H2z"/>'} for name, color in ICONS.items()}
    return {"icons.json": json.dumps({"icons": bodies, "width": 16, "height": 16}).encode()}


def test_scenes_of_the_sample_sets_own_unseen_artist_are_its_split(tool, sample):
    stored = {label: drawn[RESERVED] for label, drawn in read_drawings().items() if RESERVED in drawn}
    plan = tool.plan_scenes(sample, {RESERVED: stored}, SMALL["scenes_eval"])
    composed = [(f"{key}.{extension}", data) for key, one in tool.compose(plan) for extension, data in one.items()]
    assert composed == members([Path(shard) for shard in sample.shards("unseen_artist")])


def test_a_folder_is_a_data_set_for_every_task(tool, sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "fetch", fake)
    words = [str(tmp_path), "--sample", str(sample.folder), "--scenes", "8", "--artist", "openmoji"]
    assert tool.main(words) == 0
    assert f"{tmp_path / 'openmoji'}: 8 scenes of 3 drawings of 3 of 128 concepts" in capsys.readouterr().out
    folder = tmp_path / "openmoji"
    found = open_data_set(f"wds:{folder}", DataConfig(), None)
    names = sample.class_names("train")
    assert found.classes == tuple(with_article(name) for name in names)
    assert (folder / "classes.txt").read_text().splitlines() == list(found.classes)
    assert found.templates == ("{}", "a drawing of {}")
    assert found.test.has == found.training.has == {LABELS, CAPTIONS, MASKS}
    drawn = {names.index(name) for name in ("dog", "owl", "grapes")}
    labels = [found.test.label(index) for index in range(8)]
    assert set(labels[:4]) == drawn  # one object each, dealt in turn
    assert labels[4:] == [None] * 4
    for index in range(8):
        present = set(found.test.mask(index).unique().tolist()) - {-1}
        assert present <= drawn
        assert (len(present) == 1) == (index < 4)
        assert all(found.classes[number] in found.test.captions(index)[0] for number in present)
        # The packages' colors are in the image where the mask says so.
        image, mask = found.test.image(index), found.test.mask(index)
        for number, channel in zip((names.index("dog"), names.index("owl")), (0, 1), strict=True):
            if (mask == number).sum() > 20:
                assert image[mask == number].float().mean(0).argmax() == channel
    assert "CC-BY-SA-4.0" in (folder / "NOTICE").read_text()
    monkeypatch.setattr(tool, "fetch", lambda *_: pytest.fail("fetched"))
    assert tool.main(words) == 0  # all that is asked for is there
    assert capsys.readouterr().out.startswith(f"{folder}: kept as it is; to have another one, remove it")


def test_the_training_scenes_are_the_sample_sets_and_those_of_one_object_have_their_class(tool, sample, tmp_path):
    tool.write_train(tmp_path / "train", sample)
    written = members(sorted((tmp_path / "train").glob("*.tar")))
    assert [one for one in written if not one[0].endswith(".cls")] == members(list(map(Path, sample.shards("train"))))
    infos = {name.removesuffix(".json"): json.loads(data) for name, data in written if name.endswith(".json")}
    classes = {name.removesuffix(".cls"): int(data) for name, data in written if name.endswith(".cls")}
    assert classes == {key: info["concept_ids"][0] for key, info in infos.items() if info["objects"] == 1}
    assert classes


def test_training_scenes_of_another_set_are_refused(tool, sample, tmp_path, monkeypatch, capsys):
    """Their classes would have other numbers than those of the test scenes beside them."""
    monkeypatch.setattr(tool, "fetch", fake)
    other = ensure_sample(tmp_path / "other", **SMALL | {"unseen": ["twemoji"]})
    out = tmp_path / "out"

    def words(which, artist):
        return [str(out), "--sample", str(which.folder), "--scenes", "2", "--artist", artist]

    assert tool.main(words(sample, "openmoji")) == 0
    notice = (out / "train" / "NOTICE").read_text()
    assert all(word in notice for word in ("CC-BY-4.0", "Apache-2.0", "Twitter"))
    with pytest.raises(SystemExit):
        tool.main(words(other, "emojione-v1"))
    assert f"{out / 'train'} holds scenes of another sample set than {other.folder}" in capsys.readouterr().err
    assert not (out / "emojione-v1").exists()
    (out / "train" / "settings.json").rename(tmp_path / "settings.json")  # an earlier version wrote none
    with pytest.raises(SystemExit):
        tool.main(words(sample, "emojione-v1"))
    (tmp_path / "settings.json").rename(out / "train" / "settings.json")
    assert tool.main(words(sample, "emojione-v1")) == 0
    shutil.rmtree(out / "train")
    with pytest.raises(SystemExit):
        tool.main(words(sample, "openmoji"))  # it is there, and of no use
    shutil.rmtree(out / "emojione-v1")
    with pytest.raises(SystemExit):
        tool.main(words(other, "emojione-v1"))
    assert f"{out / 'train'} is gone, which {out / 'openmoji'} need" in capsys.readouterr().err


def test_together_deals_the_drawings_of_all_artists(tool, tmp_path, monkeypatch, capsys):
    """A single object each: first every concept by its first artist, then by the next one."""
    monkeypatch.setattr(tool, "fetch", fake)
    sample = ensure_sample(tmp_path / "sample", **SMALL, objects=[0.5, 0.5])  # the packages hold three concepts alone
    assert tool.main([str(tmp_path), "--sample", str(sample.folder), "--scenes", "300", "--together"]) == 0
    assert f"{tmp_path / 'together'}: 300 scenes of 134 drawings of 128 of 128 concepts" in capsys.readouterr().out
    infos = [json.loads(data) for name, data in members([tmp_path / "together/test/0.tar"]) if name.endswith(".json")]
    singles = [(info["concepts"][0], info["artists"][0]) for info in infos if info["objects"] == 1]
    names = sample.class_names("train")
    assert singles[:128] == [(name, RESERVED) for name in names]
    assert [one for one in singles[128:] if one[1] != RESERVED] == [
        (name, "openmoji") for name in names[:22] if name in ("dog", "owl")
    ]
    assert {artist for info in infos for artist in info["artists"]} == {RESERVED, "openmoji", "emojione-v1"}
    notice = (tmp_path / "together" / "NOTICE").read_text()
    assert all(word in notice for word in ("EmojiTwo", "OpenMoji", "emojione-legacy", "CC-BY-4.0", "CC-BY-SA-4.0"))


def test_what_is_there_is_kept_and_what_is_missing_is_made(tool, sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "fetch", fake)
    words = [str(tmp_path), "--sample", str(sample.folder), "--scenes", "2"]
    assert tool.main([*words, "--artist", "openmoji"]) == 0
    before = {path: path.stat() for path in tmp_path.glob("[ot]*/**/*") if path.is_file()}
    capsys.readouterr()
    # Alone they show three concepts; together with the embedded artist all.
    assert tool.main([*words, "--together"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [
        str(tmp_path / name) for name in ("openmoji", "emojione-v1", "together")
    ]
    assert "kept as it is" in said[0]
    assert "2 scenes of 134 drawings" in said[2]
    assert {path: path.stat() for path in before} == before


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (FileNotFoundError(2, "No such file", "npm"), "npm is not there to fetch packages with; install it"),
        (subprocess.CalledProcessError(1, ["npm"]), "did not fetch emojibase-data@17.0.0 (status 1): see what"),
        (ValueError("a@1: integrity x, pinned y"), "a@1: integrity x, pinned y: it is not the package that is meant"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_before_anything_is_written(
    tool, sample, tmp_path, monkeypatch, capsys, failure, said
):
    def fails(*_):
        raise failure

    monkeypatch.setattr(tool, "fetch", fails)
    with pytest.raises(SystemExit, match="2"):
        tool.main([str(tmp_path / "out"), "--sample", str(sample.folder)])
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_mistakes_are_named(tool, sample, tmp_path, capsys):
    for words, said in (
        ([str(tmp_path), "--scenes", "1"], "--scenes is 1: at least 2 are needed"),
        ([str(tmp_path), "--sample", str(tmp_path)], "is no rendered sample set: it has no train/index.json"),
    ):
        with pytest.raises(SystemExit):
            tool.main(words)
        assert said in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"nobody: none of the 128 concepts of .* is drawn"):
        tool.plan_scenes(sample, {"nobody": {}}, 4)


def test_another_package_than_the_pinned_one_is_refused(tool, tmp_path, monkeypatch):
    def packed(*args, **options):
        (tmp_path / "other.tgz").write_bytes(b"other")
        return type("Done", (), {"stdout": "other.tgz\n"})

    monkeypatch.setattr(sys.modules["make_sample"].subprocess, "run", packed)
    for source in tool.OUTSIDE:
        with pytest.raises(ValueError, match=f"{source.package}@{source.version}: integrity sha512-.*, pinned sha512-"):
            tool.fetch(source, tmp_path)
