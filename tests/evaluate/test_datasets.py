"""What a run trains on and is measured on, and the mistakes that must be reported before training, not after it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
import webdataset as wds
from PIL import Image

from silc.config import Config, DataConfig
from silc.config_rules import validate
from silc.data import class_names, imagenet
from silc.data.sample_set.cache import SampleSet
from silc.evaluate import datasets
from silc.evaluate.report import about
from silc.evaluate.tasks import TASKS
from silc.train import sources

from .conftest import NAMES


@pytest.fixture
def mine(config, shards, tmp_path) -> Config:
    """Own data and an evaluation set."""
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    config.data.shards = ["train.tar"]
    config.eval.shards = shards([0, 6, None])
    config.eval.classes = str(tmp_path / "classes.txt")
    return config


def ade20k(root: Path, mask_size: tuple[int, int] = (8, 8)) -> str:
    """One image of 8 x 8 and its mask, as LAYOUT:FOLDER."""
    for kind in ("images", "annotations"):
        (root / kind / "validation").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "images/validation/a.jpg")
    Image.fromarray(np.ones(mask_size, np.uint8)).save(root / "annotations/validation/a.png")
    return f"ade20k:{root}"


def test_own_shards_with_an_evaluation_set(mine, world, tmp_path):
    shards, data = sources.resolve(mine, world, tmp_path)
    assert shards is None  # those that the configuration names
    assert data.classification is data.retrieval is data.segmentation
    assert data.classification.classes == NAMES
    assert len(data.classification.test) == 3
    assert data.classification.test.has == {"labels", "captions"}
    assert data.why_not(TASKS["zeroshot_classification"]) is None
    assert data.why_not(TASKS["fewshot"]) == "eval.shards has no training split"
    assert data.why_not(TASKS["zeroshot_segmentation"]) == "eval.shards has no masks"


def test_class_names_of_the_evaluation_shards_are_not_those_of_a_layout_with_a_list(mine, world, tmp_path):
    mine.eval.segmentation = ade20k(tmp_path / "ade")
    _, data = sources.resolve(mine, world, tmp_path)
    assert data.segmentation.classes == class_names.ADE20K
    assert data.classification.classes == NAMES
    mine.eval.shards = []
    with pytest.raises(ValueError, match=r"has no effect.*or eval\.classes=null"):
        sources.resolve(mine, world, tmp_path)


def test_data_of_tasks_that_are_not_asked_for_is_not_opened(mine, tmp_path):
    mine.eval.segmentation = "ade20k:/nowhere"
    data = datasets.resolve_data(mine, None, ["retrieval"])
    assert data.retrieval.name == "eval.shards"
    assert data.classification is data.segmentation is None
    assert datasets.needs_default(mine, ["retrieval"])
    mine.eval.retrieval = "wds:/x"
    assert not datasets.needs_default(mine, ["retrieval", "zeroshot_segmentation"])


@pytest.mark.parametrize("upright", [False, True])
def test_every_data_set_is_read_as_eval_upright_says(mine, tmp_path, upright):
    tags = Image.Exif()
    tags[274] = 6
    (tmp_path / "folder/ant").mkdir(parents=True)
    Image.new("RGB", (12, 8)).save(tmp_path / "folder/ant/0.jpg", exif=tags)
    with wds.TarWriter(str(tmp_path / "own.tar")) as writer:
        sample = {"jpg": (tmp_path / "folder/ant/0.jpg").read_bytes(), "json": {"class": 0}}
        writer.write({"__key__": "0", "txt": "an ant"} | sample)
    mine.eval.shards, mine.eval.upright = [str(tmp_path / "own.tar")], upright
    mine.eval.segmentation = ade20k(tmp_path / "ade")
    Image.new("RGB", (8, 8)).save(tmp_path / "ade/images/validation/a.jpg", exif=tags)
    data = datasets.resolve_data(mine, None)
    assert data.classification.test.image(0).shape == ((12, 8, 3) if upright else (8, 12, 3))
    assert data.segmentation.test.upright == upright
    mine.eval.classification, mine.eval.classes = f"imagefolder:{tmp_path / 'folder'}", None
    data = datasets.resolve_data(mine, None, ["zeroshot_classification"])
    assert data.classification.test.image(0).shape == ((12, 8, 3) if upright else (8, 12, 3))


def test_own_shards_alone_are_not_evaluated(config, world, tmp_path):
    config.data.shards = ["train.tar"]
    assert sources.resolve(config, world, tmp_path) == (None, None)


def test_no_shards_mean_the_sample_set_and_the_unseen_artist(config, world, tmp_path, monkeypatch, shards):
    class Sample(SampleSet):
        def shards(self, split):
            return shards([0, 1])

        def class_names(self, split):
            return ["apple", "bear"]

    asked = {}
    monkeypatch.setattr(datasets, "ensure_sample", lambda root, **kw: asked.update(kw, root=root) or Sample(tmp_path))
    config.data.sample_scenes, config.data.sample_test_scenes = 77, 9
    config.data.sample_captions, config.data.sample_left_out, config.data.sample_mismatched = "web", 0.25, 0.125
    config.data.sample_objects, config.data.sample_unseen = [0.0, 1.0], ["twemoji"]
    train, data = sources.resolve(config, world, tmp_path)
    assert train == shards([0, 1])
    assert data.classification.classes == ("an apple", "a bear")
    assert data.classification.train is not None
    assert asked == {
        "root": tmp_path,
        "concepts": "default",
        "scenes_train": 77,
        "scenes_eval": 9,
        "captions": "web",
        "left_out": 0.25,
        "mismatched": 0.125,
        "objects": [0.0, 1.0],
        "unseen": ["twemoji"],
    }


@pytest.mark.parametrize("split", ["unseen_artist", "unseen_concept", "both", "new_scenes"])
def test_the_split_that_is_asked_for_is_measured(config, tmp_path, shards, split):
    """With the training scenes to fit to, where they show its concepts."""
    seen = split in ("unseen_artist", "new_scenes")

    class Sample(SampleSet):
        def shards(self, name):
            assert name in (split, "train")
            return shards([0, 1])

        def class_names(self, name):
            return ["apple", "bear"] if name == "train" or seen else ["fox", "owl"]

    config.eval.sample_split = split
    found = datasets.of_sample(config, Sample(tmp_path))
    assert found.name == datasets.SPLIT_TITLES[split]
    assert found.classes == (("an apple", "a bear") if seen else ("a fox", "an owl"))
    assert (found.train is not None) == seen


def test_what_the_training_scenes_are_in_words():
    data = DataConfig(sample_scenes=16_000)
    assert datasets.sample_in_words(data) == "16,000 scenes"
    data = DataConfig(sample_scenes=1, sample_captions="web", sample_mismatched=0.125)
    assert datasets.sample_in_words(data) == (
        "1 scene with web-like captions (of the objects 50% are not named, of the captions 12.5% are another image's)"
    )
    config = Config(data=data)
    assert about._training_data(config) == f"the embedded sample set, {datasets.sample_in_words(data)}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: setattr(c.eval, "shards", []), "it goes together with eval.shards"),
        (
            lambda c: setattr(c.eval, "segmentation", "voc22:/data"),
            "'voc22:/data': 'voc22' is not a layout; did you mean 'voc2",
        ),
        (lambda c: setattr(c.eval, "segmentation", "voc20:/nowhere"), "/nowhere is not a folder"),
        (lambda c: setattr(c.eval, "shards", ["absent.tar"]), "eval.shards: no such file or folder 'absent.tar'"),
        (lambda c: setattr(c.eval, "classes", "absent.txt"), "absent.txt"),
        (lambda c: setattr(c.eval, "stride", 40), "eval.stride=40 is larger than eval.window=32"),
    ],
)
def test_a_mistake_shows_before_training(mine, world, tmp_path, change, said):
    change(mine)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
        sources.resolve(mine, world, tmp_path)
    assert said in str(caught.value)


def test_a_mask_of_another_size_shows_before_training(mine, world, tmp_path):
    mine.eval.segmentation = ade20k(tmp_path / "ade", (5, 8))
    with pytest.raises(ValueError, match="the mask of a is 8 x 5 pixels, its image 8 x 8"):
        sources.resolve(mine, world, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: setattr(e, "templates", ["a photo"]), "'a photo'"),
        (lambda e: setattr(e, "templates", ["{} and {}"]), "once"),
        (lambda e: setattr(e, "templates", ["{name} is {}"]), "no other brace"),
        (
            lambda e: setattr(e, "templates", ["imagenet", "clip"]),
            "'clip' must hold {} once, where",
        ),
        (lambda e: setattr(e, "shots", []), "eval.shots is empty"),
        (lambda e: setattr(e, "models", []), "eval.models is empty"),
        (
            lambda e: setattr(e, "window", 100),
            "eval.window=100 is not a multiple of model.vision.patch_size=16; take 96",
        ),
        (lambda e: setattr(e, "short_side", 5), "take 16"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, said):
    config = Config()
    change(config.eval)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
        validate(config, 1)
    assert said in str(caught.value)


def test_a_class_without_a_name_is_refused(mine, world, tmp_path, shards):
    mine.eval.shards = shards([0, 1, 7])
    with pytest.raises(ValueError, match=r"eval/002 has class 7.*names 0 to 6"):
        sources.resolve(mine, world, tmp_path)


def test_an_evaluation_set_without_classes_is_refused(mine, world, tmp_path, shards):
    mine.eval.shards = shards([None, None])
    with pytest.raises(ValueError, match="no image has a `class`"):
        sources.resolve(mine, world, tmp_path)


def test_pairs_alone_are_enough(mine, config, world, tmp_path, shards):
    """Without class names there is no classification, whatever the json says; without captions there is nothing."""
    mine.eval.classes = None
    for classes in ([0, 6, None], [None, None]):
        mine.eval.shards = shards(classes)
        data = datasets.resolve_data(mine, None)
        assert data.retrieval.classes == ()
        assert [name for name in TASKS if data.why_not(TASKS[name]) is None] == ["validation_loss", "retrieval"]
    assert data.why_not(TASKS["zeroshot_classification"]) == "eval.shards has no labels"
    mine.eval.shards = shards([0, 6])
    data = datasets.resolve_data(mine, None)
    assert data.why_not(TASKS["zeroshot_classification"]) == "eval.shards has no class names (eval.classes)"
    said = "eval.shards has no class names (eval.classes) and no training split"
    assert data.why_not(TASKS["fewshot"]) == said
    mine.eval.shards = shards([0, 6], captions=False)
    with pytest.raises(ValueError, match=r"eval\.shards and eval\.classes go together.*or eval\.classes=imagenet"):
        datasets.resolve_data(mine, None)
    mine.eval.shards = shards([None], captions=False)
    with pytest.raises(ValueError, match=r"no image has a caption \(txt\), a `class` number in its json or a mask"):
        datasets.resolve_data(mine, None)


def test_names_may_be_those_of_another_data_set(mine, tmp_path, shards):
    """Pairs in eval.shards, and masks without a list of their own."""
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / "own" / kind).mkdir(parents=True)
        Image.new(mode, (8, 8), 0).save(tmp_path / "own" / kind / "a.png")
    mine.eval.shards, mine.eval.segmentation = shards([None]), f"masks:{tmp_path / 'own'}"
    data = datasets.resolve_data(mine, None)
    assert data.segmentation.classes == NAMES
    assert data.why_not(TASKS["zeroshot_classification"]) == "eval.shards has no labels"
    mine.eval.segmentation = None
    with pytest.raises(ValueError, match=r"no image has a `class`.*or leave out eval\.classes"):
        datasets.resolve_data(mine, None)


def test_masks_without_class_names_are_not_segmented(mine, tmp_path):
    mine.eval.classes = None
    mask = io.BytesIO()
    Image.fromarray(np.ones((8, 8), np.uint8)).save(mask, "png")
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "png")
    with wds.TarWriter(str(tmp_path / "masked.tar")) as writer:
        writer.write({"__key__": "0", "png": picture.getvalue(), "mask.png": mask.getvalue(), "txt": "a square"})
    mine.eval.shards = [str(tmp_path / "masked.tar")]
    data = datasets.resolve_data(mine, None)
    assert data.why_not(TASKS["zeroshot_segmentation"]) == "eval.shards has no class names (eval.classes)"
    assert data.why_not(TASKS["retrieval"]) is None


def test_imagenets_names_in_place_of_a_file(mine, tmp_path, shards):
    mine.eval.classes, mine.eval.shards = "imagenet", shards([0, 999])
    data = datasets.resolve_data(mine, None).classification
    assert data.classes == open_clip.IMAGENET_CLASSNAMES
    assert (len(data.templates), data.notes) == (80, (imagenet.PROMPTS_NOTE,))
    mine.eval.shards = shards([1000])
    with pytest.raises(ValueError, match=r"has class 1000.*names 0 to 999.*to eval\.classes=imagenet"):
        datasets.resolve_data(mine, None)


def test_an_evaluation_set_without_a_readable_image_is_refused(mine, world, tmp_path):
    with wds.TarWriter(str(tmp_path / "broken.tar")) as writer:
        for number in range(3):
            writer.write({"__key__": f"{number}", "png": b"no image", "json": b'{"class": 0}'})
    mine.eval.shards = [str(tmp_path / "broken.tar")]
    with pytest.raises(ValueError, match=r"none of its 3 images can be read; the last one is broken/2: undecodable"):
        sources.resolve(mine, world, tmp_path)
