"""The evaluation of a run: numbers, sheet, and that nothing changes by looking."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from silc.data import EvalSet, build_tokenizer
from silc.evaluate import final
from silc.evaluate.final import Suite

from .conftest import NAMES

LABELS = [0, 1, 2, None, 3, 4, 0, 1, 2]


def state_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()] + [torch.get_rng_state()]


def test_run_equals_numpy_for_student_and_teacher(config, model, world, shards):
    suite = Suite("mine", shards(LABELS), NAMES)
    teacher = SimpleNamespace(visual=lambda groups: [-features for features in model.visual(groups)])
    results = final.run(config, suite, world, model, teacher)

    tokenizer = build_tokenizer("open_clip_bpe", config.model.text.context_length)
    with torch.no_grad():
        (batch,) = EvalSet(config.data, suite.shards, size=16, batch=99)
        image = model.encode_image(batch.images).double().numpy()
        prompts = [[template.format(name) for name in NAMES] for template in config.eval.templates]
        text = [model.encode_text(tokenizer(row)).double().numpy() for row in prompts]
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    similarity = unit(image) @ unit(np.mean([unit(each) for each in text], axis=0)).T
    kept = [i for i, label in enumerate(LABELS) if label is not None]
    truth = np.array([LABELS[i] for i in kept])
    for who, sign in (("student", 1), ("teacher", -1)):
        order = np.argsort(-sign * similarity[kept], axis=1)
        assert results[who]["top1"] == pytest.approx((order[:, 0] == truth).mean())
        assert results[who]["top5"] == pytest.approx((order[:, :5] == truth[:, None]).any(1).mean())
        assert results[who]["pictures"] == 8
        assert results[who]["skipped"] == 0
    assert results["student"] != results["teacher"]


def test_a_head_only_teacher_is_not_scored(config, model, world, shards):
    suite = Suite("mine", shards(LABELS), NAMES)
    assert list(final.run(config, suite, world, model, SimpleNamespace(visual=None))) == ["student"]
    assert list(final.run(config, suite, world, model, None)) == ["student"]


def test_evaluation_changes_no_state(config, model, world, shards, tmp_path):
    suite = Suite("mine", shards(LABELS), NAMES)
    model.train()
    before, grad = state_of(model), torch.is_grad_enabled()
    final.run(config, suite, world, model, None)
    final.sheet(config, suite, world, model, tmp_path / "sheet.png")
    for was, now in zip(before, state_of(model), strict=True):
        assert torch.equal(was, now)
    assert model.training
    assert torch.is_grad_enabled() == grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_unreadable_picture_is_counted_and_named(config, model, world, shards, tmp_path, caplog):
    paths = shards(LABELS)
    data = bytearray((tmp_path / "eval.tar").read_bytes())
    at = data.index(b"\x89PNG", data.index(b"001.png"))
    data[at : at + 60] = bytes(60)
    (tmp_path / "eval.tar").write_bytes(data)
    results = final.run(config, Suite("mine", paths, NAMES), world, model, None)
    assert results["student"]["skipped"] == 1
    assert results["student"]["pictures"] == 7
    assert "eval/001" in caplog.text
    assert "1 unreadable ones skipped" in final.result_lines(Suite("mine", paths, NAMES), results)


def test_the_lines_tell_the_numbers_beside_chance():
    values = {"top1": 0.5, "top5": 0.75, "mean_per_class": 0.4, "chance": 0.01, "pictures": 12, "skipped": 0}
    line = final.result_lines(Suite("the unseen artist", [], ["x"] * 100), {"student": values})
    for part in ("the unseen artist, student", "top-1 0.500", "50.0 x chance", "top-5 0.750", "100 classes", "12 pict"):
        assert part in line
    assert "skipped" not in line


@pytest.mark.parametrize("captions", [True, False])
def test_the_sheet_shows_captions_or_else_the_classes_names(
    config, model, world, shards, tmp_path, captions, monkeypatch
):
    drawn = {}
    monkeypatch.setattr(final, "draw", lambda images, truths, guesses, title, path: drawn.update(locals()))
    suite = Suite("mine", shards([0, 1, 2, 3, 4], captions=captions), NAMES)
    final.sheet(config, suite, world, model, tmp_path / "sheet.png", count=3)
    assert drawn["images"].shape == (3, 3, 16, 16)
    assert drawn["truths"] == ([f"picture {i}" for i in (0, 2, 4)] if captions else [NAMES[i] for i in (0, 2, 4)])
    for guesses in drawn["guesses"]:
        assert len(guesses) == 3
        values = [value for _, value in guesses]
        assert values == sorted(values, reverse=True)
        assert all(-1.001 <= value <= 1.001 for value in values)


def test_the_sheet_is_written_for_fewer_pictures_than_asked(config, model, world, shards, tmp_path):
    path = tmp_path / "deep" / "sheet.png"
    final.sheet(config, Suite("mine", shards([0, 1, 2]), NAMES), world, model, path)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"


def test_results_are_kept_as_json(tmp_path):
    final.write_json({"step": 3, "student": {"top1": 0.5}}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"step": 3, "student": {"top1": 0.5}}


def test_class_files(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("one\n\n  two words \n", encoding="utf-8")
    assert final.read_classes(str(file)) == ["one", "two words"]
    file.write_text("\n \n")
    with pytest.raises(ValueError, match="names no class"):
        final.read_classes(str(file))
    with pytest.raises(ValueError, match=r"eval\.classes=.*absent"):
        final.read_classes(str(tmp_path / "absent"))
