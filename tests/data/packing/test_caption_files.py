"""The caption files of COCO and Flickr, in the layouts in which they are handed out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from silc.data.packing import json_files
from silc.data.packing.find import find
from silc.data.packing.options import SourceOptions
from tests.data.packing.packed import by_source, image, packed, samples, skipped


def pictures(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number))


def pairs(out: Path) -> dict[bytes, list[str]]:
    """Captions by the bytes of the image."""
    return {sample["jpg"]: sample["txt"].decode().split("\n") for sample in samples(out)}


def coco(folder: Path) -> Path:
    """A file like captions_train2017.json: captions in another order than images, one image without."""
    pictures(folder / "train2017", "000000000009.jpg", "000000000025.jpg", "000000000030.jpg")
    value = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"license": 3, "file_name": "000000000009.jpg", "coco_url": "http://x", "id": 9},
            {"license": 3, "file_name": "000000000025.jpg", "coco_url": "http://x", "id": 25},
            {"license": 3, "file_name": "000000000030.jpg", "coco_url": "http://x", "id": 30},
        ],
        "annotations": [
            {"image_id": 25, "id": 1, "caption": "A giraffe.\n"},
            {"image_id": 9, "id": 2, "caption": "Food\non a tray."},
            {"image_id": 25, "id": 3, "caption": " Two giraffes. "},
            {"image_id": 9, "id": 4, "caption": "   "},
            {"image_id": 77, "id": 5, "caption": "of no image"},
        ],
    }
    path = folder / "annotations" / "captions_train2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(value))
    return path


def test_coco(tmp_path):
    path = coco(tmp_path)
    found = find(str(path), SourceOptions())
    assert found.title == "COCO captions"
    assert found.root == str(tmp_path / "train2017")
    finished = packed(path, tmp_path / "out", max_skipped=0.5)
    assert pairs(tmp_path / "out") == {image(0): ["Food on a tray."], image(1): ["A giraffe.", "Two giraffes."]}
    assert finished.captions == 3
    assert skipped(tmp_path / "out") == {"captions_train2017.json:30": json_files.NO_CAPTION}


def test_coco_instances_are_refused(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": []}]}))
    with pytest.raises(ValueError, match=r"give captions_\*.json, not instances_\*.json"):
        find(str(path), SourceOptions())


@pytest.mark.parametrize("name", ["results_20130124.token", "Flickr8k.token.txt"])
def test_token_files_of_flickr(tmp_path, name):
    pictures(tmp_path / "flickr30k-images", "1000092795.jpg", "10002456.jpg")
    path = tmp_path / name
    path.write_text(
        "1000092795.jpg#0\tTwo young guys .\n1000092795.jpg#1\tTwo men , \t outside\n"
        "10002456.jpg#0\tSeveral men .\n\nx\n"
    )
    assert find(str(path), SourceOptions()).root == str(tmp_path / "flickr30k-images")
    packed(path, tmp_path / "out", max_skipped=0.5)
    assert pairs(tmp_path / "out") == {
        image(0): ["Two young guys .", "Two men , \t outside"],
        image(1): ["Several men ."],
    }
    assert list(skipped(tmp_path / "out")) == [f"{name}:5"]


def test_results_csv_of_flickr30k(tmp_path):
    pictures(tmp_path / "flickr30k_images", "1000092795.jpg", "2199200615.jpg")
    path = tmp_path / "results.csv"
    path.write_text(
        "image_name| comment_number| comment\n"
        '1000092795.jpg| 0| "Two" guys , a "hat" .\n'
        "1000092795.jpg| 1| Two men .\n"
        "2199200615.jpg| 4   A dog runs across the grass .\n"  # as it stands in the file that is handed out
        "2199200615.jpg| 0| A dog .\n"
    )
    packed(path, tmp_path / "out", max_skipped=0.5)
    assert pairs(tmp_path / "out") == {image(0): ['"Two" guys , a "hat" .', "Two men ."], image(1): ["A dog ."]}
    assert list(skipped(tmp_path / "out")) == ["results.csv:4"]


def karpathy(folder: Path) -> Path:
    pictures(folder / "val2014", "a.jpg", "b.jpg", "c.jpg")
    images = [
        {"filepath": "val2014", "filename": f"{name}.jpg", "imgid": number, "split": split,
         "sentences": [{"tokens": ["x"], "raw": f"{name} {k}", "imgid": number} for k in range(5)]}
        for number, (name, split) in enumerate([("a", "train"), ("b", "test"), ("c", "restval")])
    ]  # fmt: skip
    path = folder / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def test_karpathys_splits(tmp_path):
    path = karpathy(tmp_path)
    with pytest.raises(ValueError, match="the splits train, test, restval; name one with --split, or all of them"):
        find(str(path), SourceOptions())
    with pytest.raises(ValueError, match="there is no split 'val', only train, test, restval"):
        find(str(path), SourceOptions(split="val"))
    packed(path, tmp_path / "out", reading={"split": "train,restval"})
    assert pairs(tmp_path / "out") == {image(n): [f"{c} {k}" for k in range(5)] for n, c in ((0, "a"), (2, "c"))}
    packed(path, tmp_path / "all", reading={"split": "all"})
    assert set(by_source(tmp_path / "all")) == {f"dataset_coco.json:{n}" for n in range(3)}


def small_coco(folder: Path, images: list, annotations: list) -> Path:
    pictures(folder, *(f"{n}.jpg" for n in range(4)))
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


@pytest.mark.parametrize("written", [int, float, str])
def test_coco_ids_as_floats_or_texts_are_the_same_ids(tmp_path, written):
    images = [{"id": written(391895 + n), "file_name": f"{n}.jpg"} for n in range(4)]
    annotations = [{"image_id": float(391895 + n), "caption": f"picture {n}"} for n in range(4)]
    if written is str:  # without the .0
        annotations = [each | {"image_id": int(each["image_id"])} for each in annotations]
    packed(small_coco(tmp_path / "in", images, annotations), tmp_path / "out")
    assert pairs(tmp_path / "out") == {image(n): [f"picture {n}"] for n in range(4)}


@pytest.mark.parametrize("odd", [None, 1.5, True, [], {}, "", float("nan"), float("inf")])
def test_coco_without_ids_gives_no_image_the_captions_of_others(tmp_path, odd):
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": odd, "file_name": "2.jpg"}, {"file_name": "3.jpg"}]
    annotations = [
        {"image_id": 1, "caption": "picture 1"},
        {"image_id": odd, "caption": "of another"},
        {"caption": "of another"},
        {"image_id": 1, "caption": None},
        {"image_id": 50, "caption": "of an image that is not listed"},
    ]
    path = small_coco(tmp_path / "in", images, annotations)
    assert find(str(path), SourceOptions()).notes[1:3] == [
        "3 annotations left out: no text, or no image_id",
        "1 caption left out: of images that are not listed, such as 50",
    ]
    finished = packed(path, tmp_path / "out", max_skipped=0.9)
    assert pairs(tmp_path / "out") == {image(1): ["picture 1"]}
    assert finished.skipped == {json_files.NO_ID: 2}


def test_coco_images_that_share_an_id_are_left_out(tmp_path):
    images = [{"id": n // 2, "file_name": f"{n}.jpg"} for n in range(3)]
    annotations = [{"image_id": n, "caption": f"picture {n}"} for n in range(2)]
    finished = packed(small_coco(tmp_path / "in", images, annotations), tmp_path / "out", max_skipped=0.9)
    assert pairs(tmp_path / "out") == {image(2): ["picture 1"]}
    assert finished.skipped == {json_files.TWICE: 2}


def test_a_null_among_captions_costs_no_other(tmp_path):
    pictures(tmp_path / "in", "0.jpg", "1.jpg", "2.jpg")
    sentences = [[{"raw": "one"}, {"raw": None}, {"raw": "two"}], [{"raw": "three"}, {}, 7], [{"raw": 4}]]
    images = [{"filename": f"{n}.jpg", "split": "test", "sentences": each} for n, each in enumerate(sentences)]
    (tmp_path / "in" / "k.json").write_text(json.dumps({"images": images}))
    finished = packed(tmp_path / "in" / "k.json", tmp_path / "out", max_skipped=0.5)
    assert pairs(tmp_path / "out") == {image(0): ["one", "two"], image(1): ["three"]}
    assert finished.skipped == {"caption is not text": 1}


@pytest.mark.parametrize(
    "value",
    [
        {
            "images": [{"id": [1], "file_name": 3}, {"id": 2, "file_name": 3}],
            "annotations": [{"image_id": {}, "caption": "x"}, 7, {"image_id": 2, "caption": "x"}],
        },
        {"images": [7, {"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]},
        {"images": [{"sentences": 3, "split": []}, {"sentences": [3, {"raw": 4}], "filename": 1}, 5]},
    ],
)
def test_odd_values_are_counted(tmp_path, value):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    rows = list(find(str(path), SourceOptions()).rows())
    assert len(rows) in (1, 2)
    assert all(hasattr(row, "reason") for row in rows)


def test_damaged_and_deep_json_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    for text, says in (
        ("[" * 200_000, "nested too deep"),
        ('{"images": [', "is not valid JSON"),
        ("[1]", "JSON object"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            find(str(path), SourceOptions())
    monkeypatch.setattr(json_files, "MAX_FILE", 2)
    with pytest.raises(ValueError, match="has 3 bytes; at most 2 are read"):
        find(str(path), SourceOptions())
