"""CLIP_benchmark's own command line on an export and on files in its layout: its figures are ours."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import clip_benchmark.cli
import pytest
from PIL import Image

import silc.model.timm_tower  # noqa: F401 - gives timm the name of the export's tower
from silc.commands.evaluate import main as evaluate
from silc.model.scale import LogitScale
from tests.interchange.sources import export

from .benchmark_tool import AT, SAME, TOOL, Sample, our_figures, our_words, run, their_figures, their_words, write_set
from .conftest import NAMES, random_images

IMAGES = 42
TEMPLATES = ("{}", "a {}", "a drawing of {}")


def files(size: int, **of: object) -> list[Sample]:
    """Images of size x size, seven classes in turn, one caption each unless `of` says otherwise."""
    found = []
    for number, image in enumerate(random_images(IMAGES, size, size, seed=3)):
        encoded = io.BytesIO()
        Image.fromarray(image.numpy()).save(encoded, "PNG")
        known = {"label": number % 7, "captions": (f"number {number} of {IMAGES}",)} | {
            name: give(number) for name, give in of.items()
        }
        found.append(Sample(encoded.getvalue(), "png", **known))
    return found


@pytest.fixture
def both(config, model, tmp_path, monkeypatch):
    """The figures of both on the same files: (silc's, CLIP_benchmark's)."""
    exported = tmp_path / "exported"
    export(model.state_dict(), LogitScale("softmax"), config, exported)

    def call(samples: list[Sample], amp: bool = False) -> tuple[dict[str, float], dict[str, float]]:
        folder = tmp_path / "sets"
        classes = write_set(folder / "classes", samples, classes=NAMES, templates=TEMPLATES)
        captions = write_set(folder / "captions", samples)
        assert evaluate(our_words(exported, classes, captions, tmp_path / "ours")) == 0
        theirs: dict[str, float] = {}
        for task, data in (("zeroshot_classification", classes), ("zeroshot_retrieval", captions)):
            words = their_words(exported, data, task, tmp_path / f"{task}.json", amp=amp)
            monkeypatch.setattr(sys, "argv", ["clip_benchmark", *words])
            clip_benchmark.cli.main()
            theirs |= their_figures(tmp_path / f"{task}.json")
        return our_figures(tmp_path / "ours"), theirs

    return call


def test_every_figure_is_the_same(both):
    """Images of the model's size, each with a caption of its own: nothing is left to differ."""
    ours, theirs = both(files(16))
    assert theirs == pytest.approx(ours, abs=1e-6)
    assert set(ours) == set(SAME)
    assert 0 < ours["acc1"] < ours["acc5"] < 1
    assert 0 < ours["text_retrieval_recall@1"] <= ours["text_retrieval_recall@10"] < 1


def test_several_captions_of_an_image_are_counted_alike(both):
    """A query of the image is a hit if one of them is found, each of them is a query of its own."""
    ours, theirs = both(files(16, captions=lambda n: tuple(f"number {n} said {k}" for k in range(1 + n % 3))))
    assert theirs == pytest.approx(ours, abs=1e-6)


def test_equal_captions_of_several_images_are_misses_there_and_hits_here(both):
    ours, theirs = both(files(16, captions=lambda n: (f"number {n % 14}",)))
    for k in AT:
        for name in (f"text_retrieval_recall@{k}", f"image_retrieval_recall@{k}"):
            assert theirs[name] <= ours[name]
    assert theirs["image_retrieval_recall@1"] < ours["image_retrieval_recall@1"]
    assert {name: theirs[name] for name in ("acc1", "acc5")} == pytest.approx({n: ours[n] for n in ("acc1", "acc5")})


def test_other_sizes_differ_by_the_rounding_of_the_resize_alone(both):
    """Few images change sides: here at most two."""
    ours, theirs = both(files(40))
    assert theirs == pytest.approx(ours, abs=2 / IMAGES + 1e-6)


def test_the_tool_opens_a_moved_export_by_its_command_line(config, model, tmp_path):
    """In a process of its own, which knows nothing but the import that names the tower."""
    config.objective.contrastive = "sigmoid"
    export(model.state_dict(), LogitScale("sigmoid"), config, tmp_path / "made")
    moved = (tmp_path / "made").rename(tmp_path / "moved to")
    captions = write_set(tmp_path / "captions", files(16))
    out = tmp_path / "figures.json"
    run(["-c", TOOL, *their_words(Path(moved), captions, "zeroshot_retrieval", out)], tmp_path)
    assert set(their_figures(out)) == {name for name in SAME if "retrieval" in name}
