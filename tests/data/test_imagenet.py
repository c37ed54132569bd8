"""ImageNet by its folders, against the lists of open_clip, timm and CLIP_benchmark."""

from __future__ import annotations

import io
import json
from pathlib import Path

import clip_benchmark
import open_clip
import pytest
import webdataset as wds
from PIL import Image

from silc.config import DataConfig
from silc.data import imagenet
from silc.data.layouts import open_data_set
from silc.data.prompts import prompt_set
from silc.data.splits import DataSet

JPEG = io.BytesIO()
Image.new("RGB", (6, 4), (10, 200, 30)).save(JPEG, "JPEG")


def tree(root: Path, split: str = "val", synsets: tuple[str, ...] = imagenet.synsets()) -> Path:
    """A folder for each synset, an image in the first and the last of them."""
    for synset in synsets:
        (root / split / synset).mkdir(parents=True)
    for synset in {synsets[0], synsets[-1]}:
        (root / split / synset / f"{synset}_1.JPEG").write_bytes(JPEG.getvalue())
    return root


def opened(layout: str, root: Path, classes: tuple[str, ...] | None = None) -> DataSet:
    return open_data_set(f"{layout}:{root}", DataConfig(workers=0), classes)


def test_the_lists_belong_together():
    """In the order of the class numbers, as CLIP_benchmark's data set of ImageNet has them."""
    names, synsets = imagenet.class_names(), imagenet.synsets()
    assert (len(names), len(synsets), len(set(synsets))) == (1000, 1000, 1000)
    assert list(synsets) == sorted(synsets)
    kept = Path(clip_benchmark.__file__).parent / "datasets" / "en_classnames.json"
    assert list(names) == json.loads(kept.read_text())["imagenet1k"]
    known = dict(zip(synsets, names, strict=True))  # some that the literature names by synset
    assert [known[s] for s in ("n01440764", "n02123045", "n03445777")] == ["tench", "tabby cat", "golf ball"]


def test_names_and_prompts_are_open_clips(tmp_path):
    data = opened("imagenet", tree(tree(tmp_path, "train")))
    assert data.classes == open_clip.IMAGENET_CLASSNAMES
    assert data.templates == prompt_set("imagenet")
    assert [data.test.label(number) for number in range(len(data.test))] == [0, 999]
    assert data.test.title.endswith(" val")
    assert len(data.training) == 2
    mine = tuple(f"thing {number}" for number in range(1000))
    assert opened("imagenet", tmp_path, mine).classes == mine
    with pytest.raises(ValueError, match=r"eval\.classes names 3 classes, ImageNet has 1,000"):
        opened("imagenet", tmp_path, ("a", "b", "c"))


def test_the_validation_folder_has_two_names(tmp_path):
    assert opened("imagenet", tree(tmp_path, "validation")).test.title.endswith(" validation")
    tree(tmp_path / "other", "train")
    with pytest.raises(ValueError, match=r"has no folder val or validation, with a folder a synset in it"):
        opened("imagenet", tmp_path / "other")


def test_other_folders_are_refused_in_words(tmp_path):
    tree(tmp_path / "part", synsets=imagenet.synsets()[:100])
    with pytest.raises(ValueError, match=r"has 100 class folders.*1,000 synsets: 900 synsets are missing, such as n0"):
        opened("imagenet", tmp_path / "part")
    tree(tmp_path / "more", synsets=(*imagenet.synsets(), "n99999999"))
    with pytest.raises(ValueError, match=r"has 1,001 class folders.*: 1 folder is none of them, such as n99999999"):
        opened("imagenet", tmp_path / "more")
    (tmp_path / "flat/val").mkdir(parents=True)
    (tmp_path / "flat/val/ILSVRC2012_val_00000001.JPEG").write_bytes(JPEG.getvalue())
    with pytest.raises(ValueError, match=r"flat/val has no class folders; the images of ImageNet's validation set"):
        opened("imagenet", tmp_path / "flat")
    tree(tree(tmp_path / "train"), "train", imagenet.synsets()[1:])
    with pytest.raises(ValueError, match=r"train/train has 999 class folders.*1 synset is missing, such as n01440764;"):
        opened("imagenet", tmp_path / "train")


def test_an_imagefolder_of_synsets_is_imagenet(tmp_path):
    """All of them or some, such as Imagenette's; their names are no words."""
    data = opened("imagefolder", tree(tmp_path / "all"))
    assert (data.classes, data.templates) == (open_clip.IMAGENET_CLASSNAMES, prompt_set("imagenet"))
    assert data.notes == (imagenet.NAMES_NOTE,)
    tree(tmp_path / "some", synsets=("n01440764", "n03445777"))
    data = opened("imagefolder", tmp_path / "some")
    assert (data.classes, len(data.templates)) == (("tench", "golf ball"), 80)
    assert opened("imagefolder", tmp_path / "some", ("a", "b")).classes == ("a", "b")
    assert opened("imagefolder", tmp_path / "some", ("a", "b")).templates is None
    tree(tmp_path / "others", synsets=("n01440764", "n00000001"))
    assert opened("imagefolder", tmp_path / "others").classes == ("n00000001", "n01440764")


@pytest.mark.parametrize("own", [None, "a {c}\n"])
def test_a_wds_of_imagenets_names_has_its_prompts_unless_it_has_others(tmp_path, own):
    (tmp_path / "test").mkdir()
    (tmp_path / "test/nshards.txt").write_text("1")
    with wds.TarWriter(str(tmp_path / "test/0.tar")) as writer:
        writer.write({"__key__": "0", "jpg": JPEG.getvalue(), "cls": "999"})
    with pytest.raises(ValueError, match=r"no classnames\.txt; give eval\.classes=FILE, or eval\.classes=imagenet"):
        opened("wds", tmp_path)
    assert opened("wds", tmp_path, imagenet.class_names()).templates == prompt_set("imagenet")
    (tmp_path / "classnames.txt").write_text("\n".join(imagenet.class_names()))
    if own is not None:
        (tmp_path / "zeroshot_classification_templates.txt").write_text(own)
    data = opened("wds", tmp_path)
    assert data.templates == (prompt_set("imagenet") if own is None else ("a {}",))
    assert data.notes == ((imagenet.PROMPTS_NOTE,) if own is None else ())
