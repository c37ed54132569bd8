"""The segmentation tasks: against the same arithmetic written out, and on squares whose colour is their class."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from silc.data.splits import IGNORE, DataSet
from silc.evaluate.segmentation.decoder import CostDecoder
from silc.evaluate.segmentation.patch_labels import cells, training_windows
from silc.evaluate.sharding import Job
from silc.evaluate.tasks import (
    linear_segmentation,
    open_vocabulary_segmentation,
    zeroshot_segmentation,
)

from .conftest import Memory, random_images


@pytest.fixture
def job(config, world) -> Job:
    config.eval.short_side, config.eval.window, config.eval.stride = 32, 16, 8
    config.eval.train_images, config.eval.probe_steps, config.eval.decoder_steps = 16, 200, 60
    return Job(config, world, "a task, student")


class Colours:
    """A model whose features are colours and noise: the cosines alone are often wrong, neighbours know better."""

    name, patch, device = "colours", 8, torch.device("cpu")

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._directions = torch.randn(3, 16, generator=generator)
        known = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
        self._colours = dict(zip(("red", "green", "blue", "yellow"), known, strict=True))

    def values(self, crops: torch.Tensor) -> torch.Tensor:
        colour = F.avg_pool2d(crops.float() / 255 - 0.35, 8).permute(0, 2, 3, 1)
        seed = int(crops.long().sum())
        noise = torch.randn(colour.shape, generator=torch.Generator().manual_seed(seed))
        return F.normalize((colour + 1.2 * noise) @ self._directions, dim=-1)

    def classes(self, names, templates) -> torch.Tensor:
        colours = torch.stack([self._colours[name] - 0.35 for name in names])
        return F.normalize(colours @ self._directions, dim=-1)


def named(metrics) -> dict:
    return {metric.name: metric for metric in metrics}


def test_zero_shot_equals_the_protocol_written_out(config, towers, job, model):
    """Whole image, one prompt: value path, cosine, bilinear upsampling, argmax, mean IoU by scikit-learn."""
    config.eval.window, config.eval.templates = 0, ["a {}"]
    job = Job(config, job.world, "x")
    rng = np.random.default_rng(0)
    images = random_images(3, 32, 40)
    masks = [torch.from_numpy(rng.integers(-1, 5, (32, 40))) for _ in images]
    names = tuple("abcde")
    data = DataSet("noise", names, Memory(images, masks=masks))
    found = named(zeroshot_segmentation.run(towers, data, job))

    tokens = towers._tokenizer([f"a {name}" for name in names])
    guesses = []
    with torch.no_grad():
        text = F.normalize(model.encode_text(tokens), dim=-1)
        for image in images:  # 32 x 40 is the size asked for already
            patches = F.normalize(model.visual.value_path([image.permute(2, 0, 1)[None]])[0], dim=-1)
            scores = torch.einsum("hwd,cd->chw", patches[0], text)
            guesses.append(F.interpolate(scores[None], (32, 40), mode="bilinear")[0].argmax(0))
    truth, guess = torch.stack(masks).flatten().numpy(), torch.stack(guesses).flatten().numpy()
    kept = truth != IGNORE
    met = np.union1d(truth[kept], guess[kept])
    expected = sklearn.metrics.jaccard_score(truth[kept], guess[kept], labels=met, average="macro", zero_division=0)
    assert found["miou"].value == pytest.approx(expected, abs=1e-3)  # a pixel between two classes may go either way
    assert found["pixel_accuracy"].chance == 0.2
    text = "; ".join(job.notes)
    assert "pixels without a class are not counted" in text
    assert "short side 32 px, the whole image at once" in text


def test_a_protocol_with_windows_says_so(towers, job, segmented):
    found = named(zeroshot_segmentation.run(towers, segmented, job))
    assert "windows of 16 px every 8 px" in "; ".join(job.notes)
    assert 0 <= found["miou"].value <= 1
    assert len(job.details["iou"]) == 4


def test_cells_are_the_commonest_class():
    rng = np.random.default_rng(1)
    truth = rng.integers(-1, 4, (2, 8, 12))
    label, share = cells(torch.from_numpy(truth), 4, 4)
    for n, row, column in np.ndindex(2, 2, 3):
        cell = truth[n, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].ravel()
        known = cell[cell != IGNORE]
        assert label[n, row, column] == np.bincount(known, minlength=4).argmax()
        assert share[n, row, column] == pytest.approx(len(known) / 16)
    label, share = cells(torch.full((1, 4, 4), IGNORE), 4, 4)
    assert label.item() == IGNORE
    assert share.item() == 0


def test_training_windows_have_the_tests_size(towers, job, segmented):
    images, truth = training_windows(segmented.train, 0, towers.patch, job)
    assert images.shape == (4, 3, 16, 16)
    assert truth.shape == (4, 16, 16)
    whole = truth.view(2, 2, 16, 16).transpose(1, 2).reshape(32, 32)
    assert torch.equal(whole, segmented.train.mask(0))
    assert torch.equal(
        images.view(2, 2, 3, 16, 16).permute(2, 0, 3, 1, 4).reshape(3, 32, 32).permute(1, 2, 0),
        segmented.train.image(0),
    )


def test_the_fit_is_a_logistic_regression():
    """Against scikit-learn's, on classes that overlap: the same probabilities."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    x = 3 + 2 * (rng.normal(size=(600, 4)) + rng.normal(size=(3, 4))[y])
    weight = rng.uniform(0.2, 1, 600)
    w, b = linear_segmentation.fit(
        *(torch.from_numpy(part).float() for part in (x,)),
        torch.from_numpy(y),
        torch.from_numpy(weight).float(),
        3,
        1500,
        torch.device("cpu"),
    )
    found = (torch.from_numpy(x).float() @ w.T + b).softmax(1).numpy()
    expected = LogisticRegression(C=1e3, max_iter=2000).fit(x, y, sample_weight=weight).predict_proba(x)
    assert np.abs(found - expected).max() < 0.03
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.99


def test_the_linear_probe_learns_colours(towers, job, segmented):
    found = named(linear_segmentation.run(towers, segmented, job))
    assert found["miou"].value > 0.8
    assert found["miou"].chance < 0.25
    assert "of 16 images of split 1" in "; ".join(job.notes)


def test_the_decoder_begins_as_the_cosines():
    decoder = CostDecoder(6, 8)
    patches, classes = F.normalize(torch.randn(2, 3, 5, 6), dim=-1), F.normalize(torch.randn(7, 6), dim=-1)
    expected = 20 * F.interpolate((patches @ classes.T).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(decoder(patches, classes), expected)


def test_no_class_has_parameters_of_its_own():
    """Another order of the classes gives the same logits in that order; any number of classes goes."""
    torch.manual_seed(0)
    decoder = CostDecoder(6, 8)
    torch.nn.init.normal_(decoder.out.weight)
    patches, classes = F.normalize(torch.randn(2, 3, 5, 6), dim=-1), F.normalize(torch.randn(7, 6), dim=-1)
    order = torch.randperm(7)
    torch.testing.assert_close(decoder(patches, classes[order]), decoder(patches, classes)[:, order])
    assert decoder(patches, classes[:1]).shape == (2, 1, 6, 10)


def test_the_decoders_layers_are_the_formula_with_everything_concatenated():
    """In fp64: guide and names beside every class and patch, as the modules' weights have them."""
    torch.manual_seed(0)
    decoder = CostDecoder(6, 8).double()
    spatial, among = decoder.spatial[0], decoder.classes[0]
    x, guide, names = torch.randn(2, 5, 8, 3, 4).double(), torch.randn(2, 8, 3, 4).double(), torch.randn(5, 8).double()
    for image in range(2):
        maps = spatial.across(spatial.norm(x[image]))
        both = torch.cat([maps, guide[image].expand(5, -1, -1, -1)], 1)
        expected = x[image] + spatial.reduce(F.gelu(spatial.expand(both)))
        torch.testing.assert_close(spatial(x, guide)[image], expected)
    for at in ((0, 0, 0), (1, 2, 3)):
        own = x[at[0], :, :, at[1], at[2]]
        tokens = among.norm(own)
        query, key = among.match(torch.cat([tokens, names], -1)).chunk(2, -1)
        expected = own + among.out((query @ key.T / 8**0.5).softmax(-1) @ among.value(tokens))
        torch.testing.assert_close(among(x, names)[at[0], :, :, at[1], at[2]], expected)


def test_unseen_classes_are_neither_asked_for_nor_counted():
    seen = torch.tensor([True, True, False, True] * 30)
    truth = torch.tensor([[0, IGNORE], [5, 0]])
    asked = open_vocabulary_segmentation.vocabulary(truth, seen, torch.Generator().manual_seed(0))
    assert seen[asked].all()
    assert {0, 5} <= set(asked.tolist())
    assert len(asked) == open_vocabulary_segmentation.VOCABULARY
    assert asked.tolist() == sorted(set(asked.tolist()))


def test_the_decoder_is_trained_on_seen_classes(config, world, segmented, monkeypatch):
    towers, asked = Colours(), set()
    config.eval.short_side = config.eval.window = config.eval.stride = 32
    config.eval.decoder_steps = 150
    job = Job(config, world, "a task, student")
    for split in (segmented.train, segmented.test):  # the whole image of one colour: sixteen noisy patches agree
        for number in range(len(split)):
            split.image(number)[:] = split.image(number)[12, 12]
            split.mask(number)[:] = number % 4
    inner = open_vocabulary_segmentation.vocabulary

    def spy(truth: torch.Tensor, seen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        asked.update(truth.unique().tolist())
        return inner(truth, seen, generator)

    monkeypatch.setattr(open_vocabulary_segmentation, "vocabulary", spy)
    state = torch.get_rng_state()
    found = named(open_vocabulary_segmentation.run(towers, segmented, job))
    assert torch.equal(state, torch.get_rng_state())
    assert asked == {0, 1, 2}  # what the windows hold; all of the unseen class is IGNORE, such windows are passed over
    assert list(found) == ["miou", "seen_miou", "unseen_miou", "undecoded_seen_miou", "undecoded_unseen_miou"]
    assert found["seen_miou"].value > found["undecoded_seen_miou"].value + 0.03
    assert "3 classes, 1 unseen" in "; ".join(job.notes)
    again = named(open_vocabulary_segmentation.run(towers, segmented, job))
    assert [metric.value for metric in again.values()] == [metric.value for metric in found.values()]


def test_the_metrics_without_the_decoder_are_those_of_the_cosines(config, towers, job, segmented):
    """The undecoded metrics, computed on the grid of the logits, come close to those of the zero-shot task."""
    config.eval.decoder_steps = 1
    found = named(open_vocabulary_segmentation.run(towers, segmented, job))
    list(zeroshot_segmentation.run(towers, segmented, job))
    each = job.details["iou"]
    assert found["undecoded_unseen_miou"].value == pytest.approx(each[3].item(), abs=0.1)
    assert found["undecoded_seen_miou"].value == pytest.approx(each[:3].nanmean().item(), abs=0.1)


def test_too_few_classes_to_keep_one_unseen(towers, job, segmented):
    few = DataSet("few", segmented.classes[:3], segmented.test, segmented.train)
    with pytest.raises(ValueError, match=r"few has 3 classes, too few .*eval\.unseen_every"):
        list(open_vocabulary_segmentation.run(towers, few, job))


def test_training_images_without_a_class_are_an_error(towers, job, segmented):
    nothing = Memory(random_images(3, 32, 32), masks=[torch.full((32, 32), IGNORE)] * 3, title="nothing")
    data = DataSet("x", segmented.classes, segmented.test, nothing)
    for task in (linear_segmentation, open_vocabulary_segmentation):
        with pytest.raises(ValueError, match=r"nothing: no pixel of 3 masks"):
            list(task.run(towers, data, job))


def test_per_class_metrics_are_kept_for_the_report(towers, job, segmented):
    list(linear_segmentation.run(towers, segmented, job))
    assert job.details["iou"].shape == (4,)
