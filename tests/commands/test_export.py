"""`silc export`: what it writes, what it refuses to write over, and what it says when it cannot write."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from transformers import AutoModel

import silc
from silc.commands.export import FORMATS, main
from silc.config import Config
from silc.interchange.write import compare, formats
from silc.interchange.write.export import export as export_source
from silc.interchange.write.formats import FORMATS as KNOWN
from silc.interchange.write.open_clip import write
from silc.model import SilcModel
from silc.train import checkpoint, export, manifest
from tests.interchange.sources import varied
from tests.test_pretrained import make_config, make_weights, write_run


def refused(capsys, *words, status: int = 2) -> str:
    assert main([str(word) for word in words]) == status
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    config, folder = make_config("sigmoid"), tmp_path_factory.mktemp("runs") / "mine"
    average = {name: value for name, value in make_weights(config, 2).items() if not name.startswith("text.")}
    write_run(folder, config, make_weights(config, 1), average)
    return folder


def test_the_formats_are_those_that_can_be_written():
    assert FORMATS == KNOWN


def test_a_run_becomes_a_folder_and_the_call_loads_it(run, tmp_path, capsys):
    assert main([str(run), str(tmp_path / "out"), "--to", "timm"]) == 0
    said, call = capsys.readouterr().out.strip().split("\n")
    assert said.startswith(f"{run}/checkpoints/step_00000007 -> {tmp_path}/out, loaded by timm ")
    found: dict = {}
    exec(call, found)
    assert found["model"].embed_dim == 32


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_run_of_two_ranks_in_zero_3_is_exported(stage_3, tmp_path, model):
    """With the metrics of its last evaluation on the card."""
    path, out = checkpoint.find(stage_3.folder), tmp_path / "out"
    assert main([stage_3.folder, str(out), "--to", "hf", *(["--teacher"] if model == "teacher" else [])]) == 0
    theirs, weights = AutoModel.from_pretrained(out).state_dict(), checkpoint.load_weights(path, model)
    name = "visual.trunk.blocks.0.mlp.fc1.weight"
    assert torch.equal(theirs["vision_model.encoder.layers.0.mlp.fc1.weight"], weights[name])
    text = "text.transformer.resblocks.0.mlp.c_fc.weight"
    student = checkpoint.load_weights(path, "student")
    assert torch.equal(theirs["text_model.encoder.layers.0.mlp.fc1.weight"], student[text])
    assert torch.equal(weights[name], student[name]) == (model == "student")
    results = json.loads(stage_3.path("evaluation.json").read_text())["results"]
    (found,) = [row for row in results if row["task"] == "zeroshot_classification" and row["model"] == model]
    top1 = found["metrics"]["top1"]
    line = f"| zero-shot classification | top1 | {top1['value']:.4f} | {top1['chance']:.4f} | "
    assert line in (out / "README.md").read_text()
    assert "8 steps of 16 pairs" in (out / "README.md").read_text()


def test_an_export_becomes_another(run, tmp_path):
    """Of the teacher; the second one is of the first one's weights."""
    assert main([str(run), str(tmp_path / "first"), "--teacher"]) == 0
    assert main([str(tmp_path / "first"), str(tmp_path / "second"), "--to", "hf"]) == 0
    assert json.loads((tmp_path / "second" / "config.json").read_text())["contrastive_loss"] == "sigmoid"
    card = (tmp_path / "second" / "README.md").read_text()
    assert r"converted from an open\_clip folder" in card


def test_files_that_do_not_name_their_tokenizer_need_one(run, tmp_path, capsys):
    """But for timm, which has no text tower."""
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((run / "open_clip" / "open_clip_model.safetensors").read_bytes())
    said = refused(capsys, weights, tmp_path / "out")
    assert (
        "does not say which tokenizer its text tower of 49408 tokens was trained with; give --tokenizer=FOLDER" in said
    )
    assert main([str(weights), str(tmp_path / "out"), "--tokenizer", "open_clip_bpe", "--to", "hf"]) == 0
    assert main([str(weights), str(tmp_path / "image"), "--to", "timm"]) == 0


def test_a_folder_of_other_files_is_left_alone(capsys, tmp_path, run):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert "holds other files and no earlier export" in refused(capsys, run, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_only_an_earlier_export_of_the_same_kind_is_replaced(capsys, tmp_path, run):
    out = tmp_path / "out"
    assert main([str(run), str(out)]) == 0
    (out / "open_clip_model.safetensors").write_bytes(b"")
    assert main([str(run), str(out)]) == 0
    assert (out / "open_clip_model.safetensors").stat().st_size > 1000
    assert f"{out} holds an export for open_clip; give a new folder" in refused(capsys, run, out, "--to", "hf")
    (out / "notes.txt").write_text("mine")
    assert f"{out} holds an export and notes.txt, which is no part of it" in refused(capsys, run, out)
    assert (out / "notes.txt").read_text() == "mine"


def test_an_export_of_an_earlier_version_is_replaced(tmp_path, run):
    out = tmp_path / "out"
    out.mkdir()
    write(varied(make_config()), out)
    assert main([str(run), str(out)]) == 0
    assert (out / "SHA256SUMS").is_file()


def test_what_is_exported_is_not_written_over(capsys, tmp_path, run):
    out = tmp_path / "out"
    assert main([str(run), str(out)]) == 0
    assert f"{out} holds what is to be exported" in refused(capsys, out, out)
    assert f"{run} holds what is to be exported" in refused(capsys, run, run)


def test_what_cannot_be_written_is_told_without_a_traceback(capsys, tmp_path, run):
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file is a file; an export is a folder" in refused(capsys, run, tmp_path / "file")
    said = refused(capsys, run, tmp_path / "file" / "a" / "out")
    assert f"{tmp_path}/file/a/out cannot be made: {tmp_path}/file is a file; give another name" in said


def test_a_library_that_is_missing_is_named_before_anything_is_read(capsys, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    monkeypatch.setattr(export, "read_weights", None)
    said = refused(capsys, tmp_path / "none", tmp_path / "out", "--to", "onnx")
    assert said == 'silc export: an export to onnx needs onnxruntime: pip install "silc[onnx]"\n'


@pytest.mark.parametrize("wrong", ["features", "crash"])
def test_a_model_that_the_other_library_computes_otherwise_is_not_written(capsys, tmp_path, run, monkeypatch, wrong):
    """And what was there before is as it was."""
    out = tmp_path / "out"
    assert main([str(run), str(out), "--to", "timm"]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    inner = formats.writer("timm").reload

    class Other:
        library, scale = "timm 0", None

        def __init__(self, folder: Path) -> None:
            if wrong == "crash":
                raise KeyError("mlp_ratio")
            self.inner = inner(folder)

        def images(self, images):
            return self.inner.images(images) + 2e-5

        def texts(self, texts):
            return None

    monkeypatch.setattr(formats.writer("timm"), "reload", Other)
    said = refused(capsys, run, out, "--to", "timm", status=1)
    assert ("timm does not load it" if wrong == "crash" else "they differ by up to 2.0e-05") in said
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_that_are_not_finite_are_not_written(capsys, tmp_path):
    config = make_config()
    weights = make_weights(config, 1)
    weights["text.ln_final.bias"][0] = float("nan")
    write_run(tmp_path / "run", config, weights, weights)
    said = refused(capsys, tmp_path / "run", tmp_path / "out", status=1)
    assert "the model's own text features are not finite" in said
    assert not (tmp_path / "out").exists()


def test_another_scale_is_noticed():
    with pytest.raises(compare.Mismatch, match=r"reads logit_scale as 2\.5, not 3\.0"):
        compare._compare_scale((3.0, None), (2.5, None), "another")
    compare._compare_scale((3.0, None), (3.0, 0.0), "another")


def test_the_runs_own_export_keeps_what_a_user_put_there(tmp_path, run):
    out = tmp_path / "open_clip"
    export.write_export(run, out, verify=False, keep_others=True)
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("mine")
    export.write_export(run, out, verify=False, keep_others=True)
    assert (out / "notes" / "mine.txt").read_text() == "mine"
    assert "notes" not in (out / "SHA256SUMS").read_text()


def test_the_card_of_the_runs_own_export_gets_the_metrics_that_follow(tmp_path, run):
    """Nothing else changes, and what a user put there stays the user's."""
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "evaluation.json").unlink(missing_ok=True)
    out = folder / "open_clip"
    described = export.write_export(folder, out, verify=False).described()
    (out / "mine.txt").write_text("mine")
    weights = (out / "open_clip_model.safetensors").read_bytes()
    before = (out / "README.md").read_text()
    export.renew_card(described, out)
    assert (out / "README.md").read_text() == before
    metrics = {"top1": {"value": 0.4321, "chance": 0.1}}
    row = {"task": "zeroshot_classification", "model": "student", "data": "mine", "metrics": metrics, "error": None}
    step = manifest.read(described.path).step
    (folder / "evaluation.json").write_text(json.dumps({"step": step, "eval": {}, "results": [row]}))
    export.renew_card(described, out)
    assert "0.4321" in (out / "README.md").read_text()
    assert (out / "open_clip_model.safetensors").read_bytes() == weights
    assert "mine" not in (out / "SHA256SUMS").read_text()
    assert (out / "SHA256SUMS").read_text().count("\n") == 4
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)
    export.renew_card(described, tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_full_disk_leaves_the_earlier_export(capsys, tmp_path, run, monkeypatch):
    out = tmp_path / "out"
    assert main([str(run), str(out), "--to", "timm"]) == 0

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats.writer("timm"), "write_weights", full)
    assert "No space left on device" in refused(capsys, run, out, "--to", "timm")
    assert (out / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_of_an_earlier_tower_is_left(tmp_path):
    """Whose sizes timm did not know by name."""
    out = tmp_path / "out"
    export_source(varied(make_config()), out, "open_clip", card=str, verify=False)
    assert (out / "vision" / "config.json").is_file()
    named = Config()
    named.model.text.depth = 1
    out.rename(tmp_path / ".out.01234567.old")  # as an interruption leaves it
    export_source(varied(named), out, "open_clip", card=str, verify=False)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "SHA256SUMS", "open_clip_config.json", "open_clip_model.safetensors",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_others_that_open_clip_loads_is_refused(capsys, tmp_path, run):
    """Without sums, or with sums of their own."""
    out = tmp_path / "out"
    export.write_export(run, out, verify=False)
    (out / "README.md").write_text("My SigLIP")
    assert "no earlier export of this package" in refused(capsys, run, out)
    for name in ("SHA256SUMS", "vision/config.json"):
        (out / name).unlink()
    described = json.loads((out / "open_clip_config.json").read_text())
    described["model_cfg"]["vision_cfg"]["timm_model_name"] = "vit_base_patch16_siglip_224"
    (out / "open_clip_config.json").write_text(json.dumps(described))
    assert "no earlier export of this package" in refused(capsys, run, out)
    assert (out / "README.md").read_text() == "My SigLIP"


def test_what_an_evaluation_left_in_an_export_goes_with_it(capsys, tmp_path, run):
    out = tmp_path / "out"
    export.write_export(run, out, to="timm", verify=False)
    for name in ("evaluation.json", "report.html"):
        (out / name).write_text("of the earlier weights")
    export.write_export(run, out, to="timm", verify=False)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "SHA256SUMS", "config.json", "model.safetensors",
    ]  # fmt: skip


def test_an_interrupted_export_is_put_right_before_anything_is_refused(capsys, tmp_path, run):
    out = tmp_path / "out"
    export.write_export(run, out, to="timm", verify=False)
    out.rename(tmp_path / ".out.01234567.old")
    (tmp_path / ".out.01234567.part").mkdir()
    said = refused(capsys, run, out, "--to", "hf")
    assert f"note: {out} is put back: an export was interrupted" in said
    assert f"{out} holds an export for timm" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_tokenizer_of_more_tokens_than_the_table_is_refused(capsys, tmp_path):
    """Before anything is written, and not in the name of another library."""
    config = make_config()
    config.model.text.vocab_size = 1000
    weights = make_weights(config, 1)
    write_run(tmp_path / "run", config, weights, weights)
    said = refused(capsys, tmp_path / "run", tmp_path / "out")
    assert "has a text tower of 1000 tokens, fewer than the 49408 of the tokenizer open_clip_bpe" in said
    with pytest.raises(ValueError, match="fewer than the 49408"):
        export.write_export(tmp_path / "run", tmp_path / "out", verify=False)
    export.write_export(tmp_path / "run", tmp_path / "out", to="timm", verify=False)


def test_an_error_of_our_own_is_not_the_other_librarys(tmp_path, run, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise IndexError("index out of range in self")

    monkeypatch.setattr(SilcModel, "encode_image", broken)
    with pytest.raises(IndexError, match="index out of range"):
        export.write_export(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_tokenizer_that_a_model_names_is_not_replaced(capsys, tmp_path, run):
    said = refused(capsys, run, tmp_path / "out", "--tokenizer", "google/siglip-base")
    assert "was trained with the tokenizer open_clip_bpe; leave out --tokenizer=google/siglip-base" in said
    export.write_export(run, tmp_path / "out", tokenizer="open_clip_bpe", verify=False)


def test_a_tokenizers_folder_that_was_moved_can_be_named(tmp_path):
    source = replace(varied(make_config()), tokenizer=str(tmp_path / "before"))
    assert export._with_tokenizer(source, str(tmp_path / "now")).tokenizer == str(tmp_path / "now")
    (tmp_path / "before").mkdir()
    with pytest.raises(ValueError, match="leave out --tokenizer"):
        export._with_tokenizer(source, str(tmp_path / "now"))
    (tmp_path / "link").symlink_to("before")
    assert export._with_tokenizer(source, str(tmp_path / "link")) is source


@pytest.mark.parametrize("size", [16, 40])
def test_a_run_of_other_views_is_exported_as_it_was_evaluated(tmp_path, size, capsys):
    """At views.global_size, which is not that of its position table."""
    config = make_config()
    config.views.global_size = size
    weights = make_weights(config, 1)
    write_run(tmp_path / "run", config, weights, weights)
    assert main([str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"images of {size} px (views.global_size)" in said
    assert "of 24 px, is resized" in said
    ours = silc.load(tmp_path / "run", device="cpu")
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    images = compare.sample_images(size)
    assert ours.image_size == size
    with torch.no_grad():
        found = theirs.eval().encode_image(torch.stack([preprocess(image) for image in images]), normalize=True)
    torch.testing.assert_close(found, ours.encode_image(images), atol=1e-5, rtol=0)
    again = silc.load(tmp_path / "out", device="cpu")
    assert again.image_size == size
    torch.testing.assert_close(again.encode_image(images), ours.encode_image(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize("umask", [0o022, 0o027], ids=["022", "027"])
@pytest.mark.parametrize("to", ["hf", "timm"])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask, to):
    before = os.umask(umask)
    try:
        export_source(varied(make_config()), tmp_path / "out", to, card=str, verify=False)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == {0o666 & ~umask}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask
