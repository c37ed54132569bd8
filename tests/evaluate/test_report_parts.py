"""What the report is made of: examples, charts, colors of classes, features as colors, the contact sheet's data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from silc.data.splits import IGNORE, DataSet
from silc.evaluate import runner
from silc.evaluate.datasets import EvalData
from silc.evaluate.report import charts, examples, output, palette, pixels
from silc.evaluate.report.charts import Key

from .conftest import NAMES, Memory, random_images


class Untouchable:
    """A data set that may not be read."""

    def __getattr__(self, name: str):
        raise AssertionError(f"{name} was read")


def test_only_tasks_that_were_measured_are_shown(config, towers, world):
    split = Memory(random_images(4), captions=[[f"image {n}"] for n in range(4)])
    known = DataSet("x", NAMES, split)
    results = runner.evaluate(config, [towers], EvalData(None, known, None), ["retrieval"], world, strict=True)
    shown = examples.collect(config, [towers], EvalData(Untouchable(), known, Untouchable()), results)
    assert len(shown.captioned) == len(shown.features) == 4
    assert shown.classified == shown.segmented == shown.left_out == []


def test_what_cannot_be_shown_is_left_out_with_a_reason(config, towers, segmented, tmp_path):
    """The metrics are kept, the page is written, and it says what is missing."""
    config.eval.short_side, config.eval.window, config.eval.stride = 32, 16, 16
    cut = Memory(segmented.test._images, masks=[mask[:20] for mask in segmented.test._masks])
    lost = Memory([None, None], labels=[0, 1])
    data = EvalData(DataSet("lost", NAMES, lost), None, DataSet("cut", segmented.classes, cut))
    results = [
        runner.Result(task, "student", "x", (runner.Metric("top1", 0.625),), (), 0.0, ())
        for task in ("zeroshot_classification", "zeroshot_segmentation")
    ]
    shown = examples.collect(config, [towers], data, results)
    assert [line.split(":")[0] for line in shown.left_out] == ["classified images", "segmented images"]
    assert "the mask of memory/0 is 32 x 20 pixels, its image 32 x 32" in shown.left_out[1]
    assert len(shown.features) == 8
    shown = examples.collect(config, [towers], EvalData(data.classification, None, None), results[:1])
    assert shown.left_out[1] == "patch features: in memory: none of the images to show can be read"
    text = output.report(config, [towers], data, results, "title", run=tmp_path, folder=tmp_path).read_text()
    assert "0.625" in text
    assert "<h2>Left out</h2>" in text


@pytest.mark.parametrize("error", [MemoryError("9 GB"), OSError(5, "Input/output error"), RuntimeError("CUDA")])
def test_also_where_reading_fails_in_another_way(config, towers, monkeypatch, error):
    """Inside of a job what fails is a TaskFailed."""

    def fails(number: int) -> torch.Tensor:
        raise error

    split = Memory(random_images(4), labels=[0, 1, 2, 3])
    monkeypatch.setattr(split, "image", fails)
    result = runner.Result("zeroshot_classification", "student", "x", (), (), 0.0, ())
    known = EvalData(DataSet("x", NAMES, split), None, None)
    shown = examples.collect(config, [towers], known, [result])
    assert shown.left_out[0].startswith(f"classified images: {type(error).__name__}: ")


def test_an_image_of_rare_proportions_is_left_out(config, towers, world, segmented):
    config.eval.short_side, config.eval.window, config.eval.stride = 32, 16, 16
    long = torch.zeros(4, 40, 3, dtype=torch.uint8)
    images, masks = [long, *segmented.test._images], [torch.zeros(4, 40, dtype=torch.int64), *segmented.test._masks]
    data = EvalData(None, None, DataSet("long", segmented.classes, Memory(images, masks=masks)))
    (result,) = runner.evaluate(config, [towers], data, ["zeroshot_segmentation"], world, strict=True)
    assert result.skipped == (("memory/0", "longer than 8 times its width"),)
    shown = examples.collect(config, [towers], data, [result])
    assert shown.left_out == []
    assert shown.segmented
    assert shown.features


def test_a_chart_draws_its_points():
    drawn = charts.chart("a", {"x": [(0, 1.0), (10, 3.0), (20, float("nan"))], "none": []})
    ((points, _),) = drawn.paths
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in points.split())
    assert (x0, x1) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert (y0, y1) == (charts.HEIGHT - charts.BOTTOM, charts.TOP)
    assert drawn.keys == (Key("x", 3.0, 10, 0),)
    assert drawn.ends == ("0", "step 10")
    assert charts.chart("t", {"x": []}) is None


def test_a_single_point_is_a_number_in_the_legend():
    alone = charts.chart("t", {"x": [(5, 0.25)]}, from_zero=True)
    assert alone.paths == ()
    assert alone.keys == (Key("x", 0.25, 5, None),)
    beside = charts.chart("t", {"x": [(5, 0.25)], "y": [(0, 1.0), (5, 2.0)]})
    assert [color for _, color in beside.paths] == [1]
    assert [key.color for key in beside.keys] == [None, 1]


def test_doublings_are_equally_far_apart():
    ((points, _),) = charts.chart("t", {"x": [(100, 1), (200, 2), (400, 3)]}, unit="pairs", doublings=True).paths
    x0, x1, x2 = (float(pair.split(",")[0]) for pair in points.split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)


def test_a_long_line_is_thinned_and_keeps_its_peaks():
    values = np.zeros(100_000)
    values[54_321], values[77_777] = 9.0, -9.0
    ((points, _),) = charts.chart("t", {"x": list(enumerate(values.tolist()))}).paths
    heights = [float(pair.split(",")[1]) for pair in points.split()]
    assert len(heights) <= charts.MOST
    assert (min(heights), max(heights)) == (charts.TOP, charts.HEIGHT - charts.BOTTOM)
    assert sum(height == charts.TOP for height in heights) == 1


def test_labels_of_a_narrow_range_differ():
    drawn = charts.chart("t", {"x": [(0, 14.201), (1, 14.249)]})
    assert len({label for _, label in drawn.grid}) == 3


def test_an_overlay_shows_the_colors_of_its_legend(config, towers, segmented, job):
    """Every color of the legend is that of some pixels, as far as the image's own gray allows."""
    config.eval.short_side, config.eval.window, config.eval.stride = 32, 16, 16
    for panel in examples.segmented([towers], segmented, job):
        truth = next(entry for entry in panel.legend if entry.in_truth)
        color = [int(truth.color[i : i + 2], 16) for i in (1, 3, 5)]
        shown = dict(panel.images)["truth"].reshape(-1, 3).astype(int)
        assert np.abs(shown - color).max(1).min() <= 35
        assert panel.more == 0


@pytest.mark.parametrize("value", [-1.23456e-05, 1234567.0, -123456.0])
def test_a_label_has_room_beside_the_axis(value):
    """In the page's 10 px type a character is at most 6.2 px wide, as digits of the common sans-serif faces are."""
    assert 6.2 * len(charts.number(value)) <= charts.LEFT - 4


def test_principal_colors_are_those_of_numpy():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(4, 5, 7, generator=generator) * torch.arange(7, 0, -1) for _ in range(3)]
    rows = torch.cat([m.flatten(0, 1) for m in maps]).double().numpy()
    _, directions = np.linalg.eigh(np.cov(rows.T))
    scores = (rows - rows.mean(0)) @ directions[:, ::-1][:, :3]
    found = np.concatenate([m.reshape(-1, 3) for m in pixels.principal_colors(maps)]).astype(float)
    for axis in range(3):
        low, high = np.quantile(scores[:, axis], [0.02, 0.98])
        expected = ((scores[:, axis] - low) / (high - low)).clip(0, 1) * 255
        turned = 255 - expected
        assert min(np.abs(found[:, axis] - expected).max(), np.abs(found[:, axis] - turned).max()) <= 1.01


def test_an_overlay_leaves_pixels_without_a_class_gray():
    image = torch.zeros(pixels.SIDE, pixels.SIDE, 3, dtype=torch.uint8)
    image[..., 0] = 200
    classes = torch.full((pixels.SIDE, pixels.SIDE), IGNORE)
    classes[:10] = 2
    drawn = pixels.overlay(image, classes, {2: (0, 0, 255)})
    (gray,) = np.unique(drawn[10:].reshape(-1, 3), axis=0)
    assert np.ptp(gray) == 0
    assert drawn[0, 0] == pytest.approx(palette.blended(np.array([0, 0, 255]), float(gray[0])), abs=1)


def test_the_worst_classes_are_the_ones_missed_most():
    details = {"truth": torch.tensor([0, 0, 1, 1, 2, 2]), "guess": torch.tensor([0, 0, 2, 2, 2, 0])}
    result = runner.Result("zeroshot_classification", "student", "x", (), (), 0.0, (), None, details)
    split = Memory([], labels=[])
    found = examples.worst([result], EvalData(DataSet("x", ("a", "b", "c"), split), None, None))
    assert [(c.name, c.accuracy, c.taken_for) for c in found] == [("b", 0.0, [("c", 2)]), ("c", 0.5, [("a", 1)])]


def test_the_sheet_is_written_with_captions_or_else_classes(config, towers, segmented, tmp_path):
    images = random_images(5)
    captioned = DataSet("x", NAMES, Memory(images, captions=[[f"thing {n}"] for n in range(5)]))
    labelled = DataSet("x", NAMES, Memory(images, labels=[0, 1, 2, 3, 4]))
    for data in (EvalData(None, captioned, None), EvalData(labelled, None, None)):
        path = tmp_path / "sheet.png"
        assert output.sheet(config, towers, data, "title", path)
        assert path.stat().st_size > 1000
        path.unlink()
    assert not output.sheet(config, towers, EvalData(None, None, segmented), "title", tmp_path / "none.png")
