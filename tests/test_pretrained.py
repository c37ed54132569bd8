"""silc.load: the features of evaluation and of open_clip, from every kind of folder, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import webdataset as wds
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import silc
from silc import config_io, pretrained
from silc.config import (
    Config,
    DataConfig,
    EvalConfig,
    HeadConfig,
    ModelConfig,
    ObjectiveConfig,
    TextConfig,
    ViewsConfig,
    VisionConfig,
)
from silc.data.prompts import TCL
from silc.distributed import World
from silc.evaluate import runner
from silc.evaluate.datasets import resolve_data
from silc.evaluate.towers import Towers, build_towers
from silc.model import LogitScale, build
from tests.interchange.sources import export

NAMES = ["ship", "red house", "tree", "cat"]
TEMPLATES = ["a {}", "a drawing of {}"]
CPU = torch.device("cpu")


def make_config(kind: str = "softmax") -> Config:
    return Config(
        model=ModelConfig(
            vision=VisionConfig(image_size=24, patch_size=8, width=32, depth=2, heads=2),
            text=TextConfig(context_length=8, width=32, depth=2, heads=2),
            head=HeadConfig(prototypes=16, hidden=32, bottleneck=8),
        ),
        views=ViewsConfig(global_size=24, local_size=8),
        objective=ObjectiveConfig(contrastive=kind, init_scale=20.0),
        data=DataConfig(workers=0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
        eval=EvalConfig(batch=4, templates=TEMPLATES, models=["student", "teacher"]),
    )


def make_weights(config: Config, seed: int) -> dict[str, Tensor]:
    """Spread enough that features differ between images."""
    generator = torch.Generator().manual_seed(seed)
    state = build(config).state_dict()
    return {name: value + 0.2 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def write_manifest(path: Path) -> None:
    files = {file.name: file.stat().st_size for file in path.iterdir() if file.name != "manifest.json"}
    (path / "manifest.json").write_text(json.dumps({"format": 1, "step": 7, "files": files}))


def write_run(folder: Path, config: Config, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Path:
    """A run folder with one checkpoint and the export, as training leaves them, without the engine's shards."""
    path = folder / "checkpoints" / "step_00000007"
    path.mkdir(parents=True)
    save_file(student, path / "student.safetensors")
    save_file(teacher, path / "teacher.safetensors")
    scale = LogitScale(config.objective.contrastive, init_scale=20.0)
    trainer = {"format": 1, "world_size": 1, "config": config_io.to_dict(config), "scale": scale.state_dict()}
    torch.save(trainer, path / "trainer.pt")
    (path / "config.yaml").write_text(config_io.to_yaml(config))
    write_manifest(path)
    export(student, scale, config, folder / "open_clip")
    return path


@pytest.fixture(scope="module")
def config() -> Config:
    return make_config()


@pytest.fixture(scope="module")
def run(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    student, average = make_weights(config, 1), make_weights(config, 2)
    teacher = {name: value for name, value in average.items() if not name.startswith("text.")}
    write_run(folder, config, student, teacher)
    return folder


@pytest.fixture(scope="module")
def towers(config) -> dict[str, Towers]:
    """As evaluation builds them."""
    built = build_towers(config, make_weights(config, 1), make_weights(config, 2), CPU, torch.float32)
    return {one.name: one for one in built}


@pytest.fixture(scope="module")
def model(run) -> pretrained.Model:
    return silc.load(run, device="cpu")


def random_image(seed: int, width: int = 24, height: int = 24, channels: int = 3) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), channels))
    pixels = np.kron(blocks, np.ones((4, 4, 1)))[:height, :width].astype(np.uint8)
    return Image.fromarray(pixels, "RGBA" if channels == 4 else "RGB")


def stacked(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


def same(ours: Tensor, expected: Tensor) -> None:
    """Up to the last bits: how a product is rounded depends on where in memory its weights begin."""
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


IMAGES = [random_image(seed) for seed in range(5)]


def test_every_kind_of_folder_holds_the_same_model(run, towers, config):
    expected = towers["student"].images(stacked(IMAGES))
    for path in (run, run / "checkpoints" / "step_00000007", str(run / "open_clip")):
        model = silc.load(path, device="cpu")
        same(model.encode_image(IMAGES), expected)
        same(model.encode_text(NAMES), towers["student"].texts(NAMES))
        assert (model.image_size, model.patch_size, model.width, model.name) == (24, 8, 32, "student")
        assert model.logit_scale == pytest.approx(20.0)
        assert model.logit_bias is None
        assert model.config.model.vision.depth == 2
        assert model.tokenizer(["a"]).shape == (1, 8)
        assert "ViT of 2 blocks" in repr(model)
    assert silc.load(run, device="cpu").config == config


def test_the_features_are_open_clips(model, run):
    """Through open_clip's own preprocessing, which normalises; the same floating-point pixels are taken here too."""
    twin, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{run / 'open_clip'}")
    twin.eval()
    pixels = torch.stack([preprocess(image) for image in IMAGES])
    tokens = model.tokenizer(NAMES)
    with torch.no_grad():
        for normalize in (True, False):
            theirs = twin.encode_image(pixels, normalize=normalize)
            for images in (IMAGES, pixels):
                ours = model.encode_image(images, normalize=normalize)
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
            theirs = twin.encode_text(tokens, normalize=normalize)
            torch.testing.assert_close(model.encode_text(NAMES, normalize=normalize), theirs, atol=1e-5, rtol=1e-5)
        logits = twin.get_logits(pixels, tokens)[0]
    ours = model.classify(pixels, NAMES, templates=["{}"])
    torch.testing.assert_close(ours, logits.softmax(-1), atol=1e-5, rtol=1e-5)


def test_the_teacher_is_its_image_tower_beside_the_students_text_tower(run, towers, model):
    teacher = silc.load(run, model="teacher", device="cpu")
    assert teacher.name == "teacher"
    same(teacher.encode_image(IMAGES), towers["teacher"].images(stacked(IMAGES)))
    assert not torch.allclose(teacher.encode_image(IMAGES), model.encode_image(IMAGES), atol=1e-2)
    same(teacher.encode_text(NAMES), model.encode_text(NAMES))


def test_images_come_alone_in_lists_and_in_tensors(model, monkeypatch):
    expected = model.encode_image(IMAGES)
    pixels = stacked(IMAGES)
    assert expected.shape == (5, 32)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(expected.norm(dim=-1), torch.ones(5))
    for one in (IMAGES[0], pixels[0], pixels[:1], [pixels[0]], [IMAGES[0]]):
        torch.testing.assert_close(model.encode_image(one), expected[:1])
    monkeypatch.setattr(pretrained, "BATCH", 2)
    for images in (IMAGES, tuple(IMAGES), pixels, list(pixels)):
        torch.testing.assert_close(model.encode_image(images), expected)
    assert not model.encode_image(pixels).requires_grad


def test_pixels_of_another_size_are_resized_as_images_are(model):
    images = [random_image(seed, 50, 70) for seed in range(3)]
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    for given in (pixels, list(pixels), [pixels[0], images[1], pixels[2]]):
        assert torch.equal(model.encode_image(given), model.encode_image(images))
    assert torch.equal(model.classify(pixels[0], NAMES), model.classify(images[0], NAMES))
    mixed = [torch.zeros(3, size, size, dtype=torch.uint8) for size in (24, 17)]
    assert model.encode_image(mixed).shape == (2, 32)


def test_a_bright_image_among_normalised_ones_is_taken(model, monkeypatch):
    """Only floats that all lie in [0, 1] are refused, whatever the passes they are split into."""
    pixels = torch.cat([torch.randn(2, 3, 24, 24), torch.ones(1, 3, 24, 24)])
    monkeypatch.setattr(pretrained, "BATCH", 1)
    assert model.encode_image(pixels).shape == model.encode_image(list(pixels)).shape == (3, 32)


def test_texts_that_are_not_strings_are_named_by_their_type(model):
    for texts in ([1, 2], ["cat", 3], 4):
        with pytest.raises(ValueError, match=r"^texts must be strings; found int$"):
            model.encode_text(texts)


def test_texts_come_alone_and_in_lists(model, monkeypatch):
    texts = [f"{name} {number}" for number in range(2) for name in NAMES]
    expected = model.encode_text(texts, normalize=False)
    torch.testing.assert_close(model.encode_text(texts[3], normalize=False), expected[3:4])
    torch.testing.assert_close(F.normalize(expected, dim=-1), model.encode_text(texts))
    monkeypatch.setattr(pretrained, "BATCH", 3)
    torch.testing.assert_close(model.encode_text(texts, normalize=False), expected)


def test_dense_features_are_those_of_zero_shot_segmentation(model, towers):
    for height, width in ((24, 24), (16, 40), (8, 8)):
        pixels = stacked([random_image(seed, width, height) for seed in range(3)])
        dense = model.dense(pixels)
        assert dense.shape == (3, height // 8, width // 8, 32)
        same(dense, towers["student"].values(pixels))
        torch.testing.assert_close(dense.norm(dim=-1), torch.ones(dense.shape[:3]))
    assert torch.equal(model.dense(random_image(0, 30, 50)), model.dense(model.preprocess(random_image(0, 30, 50))))


def test_classes_are_those_of_the_zero_shot_task(model, towers, tmp_path):
    """On files of other sizes than the model's, with transparency: reading, resizing, prompts and ranking are alike."""
    images = [random_image(seed, 40, 28, channels=4 if seed % 2 else 3) for seed in range(12)]
    with wds.TarWriter(str(tmp_path / "test.tar")) as writer:
        for number, image in enumerate(images):
            encoded = io.BytesIO()
            image.save(encoded, "png")
            label = json.dumps({"class": number % len(NAMES)}).encode()
            writer.write({"__key__": f"{number:03}", "png": encoded.getvalue(), "json": label})
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    config = make_config()
    config.eval.shards, config.eval.classes = [str(tmp_path / "test.tar")], str(tmp_path / "classes.txt")
    tasks = ["zeroshot_classification"]
    data = resolve_data(config, None, tasks)
    (result,) = runner.evaluate(config, [towers["student"]], data, tasks, World(0, 1, CPU), strict=True)
    guess = model.classify(images, NAMES).argmax(1)
    assert torch.equal(guess, torch.as_tensor(result.details["guess"]))
    assert len(guess.unique()) > 1
    assert torch.equal(model.classify(images, NAMES), model.classify(images, NAMES, templates=TEMPLATES))


def test_a_runs_prompts_may_be_named_by_their_set(model, monkeypatch):
    monkeypatch.setattr(model.config.eval, "templates", ["tcl", "a {}"])
    expected = model.classify(IMAGES, NAMES, templates=[*TCL, "a {}"])
    assert torch.equal(model.classify(IMAGES, NAMES), expected)


def test_softmax_and_sigmoid_probabilities(model, tmp_path):
    rows = model.classify(IMAGES, NAMES)
    torch.testing.assert_close(rows.sum(1), torch.ones(5))
    config = make_config("sigmoid")
    weights = make_weights(config, 1)
    write_run(tmp_path, config, weights, {"head.only": torch.ones(1)})
    for path in (tmp_path, tmp_path / "open_clip"):
        siglip = silc.load(path, device="cpu")
        assert siglip.logit_bias == pytest.approx(-10.0)
        found = siglip.classify(IMAGES, NAMES, templates=["{}"])
        expected = torch.sigmoid(20.0 * siglip.encode_image(IMAGES) @ siglip.encode_text(NAMES).T - 10.0)
        torch.testing.assert_close(found, expected)


def test_the_scale_never_exceeds_its_limit(config, tmp_path):
    path = write_run(tmp_path, config, make_weights(config, 1), make_weights(config, 2))
    trainer = torch.load(path / "trainer.pt", weights_only=True)
    trainer["scale"]["logit_scale"] += 5
    torch.save(trainer, path / "trainer.pt")
    write_manifest(path)
    assert silc.load(path, device="cpu").logit_scale == pytest.approx(100.0)


def test_preprocessing_written_out(model):
    """Transparent lies on white; the whole image is resized, bicubic, antialiased."""
    image = random_image(3, 50, 30, channels=4)
    values = np.asarray(image).astype(np.float64)
    alpha = values[..., 3:] / 255
    flat = torch.from_numpy(values[..., :3] * alpha + 255 * (1 - alpha)).permute(2, 0, 1)[None]
    for size, shape in ((None, (24, 24)), (16, (16, 16)), ((16, 32), (16, 32))):
        expected = F.interpolate(flat, shape, mode="bicubic", antialias=True).clamp(0, 255)[0]
        found = model.preprocess(image, size)
        assert found.dtype == torch.uint8
        # Between the passes over rows and columns the integers are rounded and clipped.
        torch.testing.assert_close(found.double(), expected, atol=5, rtol=0)
        assert (found - expected).abs().mean() < 0.6
    deep = Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16))
    assert model.preprocess(deep).unique().tolist() == [128]


def test_lower_precision_is_near(run, model):
    low = silc.load(run, device="cpu", dtype=torch.bfloat16)
    for name in ("encode_image", "dense"):
        found, expected = getattr(low, name)(IMAGES), getattr(model, name)(IMAGES)
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        assert (found * expected).sum(-1).min() > 0.99


def test_a_run_of_another_machines_backends_loads_here(config, tmp_path):
    there = dataclasses.replace(
        config,
        kernels=dataclasses.replace(config.kernels, patch_embed="triton"),
        model=dataclasses.replace(config.model, attention="xformers", compile=True),
    )
    write_run(tmp_path, there, make_weights(config, 1), make_weights(config, 2))
    found = silc.load(tmp_path, device="cpu")
    assert found.config == there
    assert found.encode_image(IMAGES).shape == (5, 32)


MISTAKES = {
    "no image": lambda m: m.encode_image("cat.jpg"),
    "empty list": lambda m: m.encode_image([]),
    "array": lambda m: m.encode_image(np.zeros((24, 24, 3), np.uint8)),
    "array in a list": lambda m: m.encode_image([np.zeros((24, 24, 3), np.uint8)]),
    "integers": lambda m: m.encode_image(torch.zeros(1, 3, 24, 24, dtype=torch.int64)),
    "channels last": lambda m: m.encode_image(torch.zeros(1, 24, 24, 3, dtype=torch.uint8)),
    "no batch": lambda m: m.encode_image(torch.zeros(0, 3, 24, 24, dtype=torch.uint8)),
    "two sizes": lambda m: m.dense([torch.zeros(3, s, s, dtype=torch.uint8) for s in (24, 16)]),
    "two sizes of floats": lambda m: m.encode_image([torch.randn(3, s, s) for s in (24, 16)]),
    "floats of an odd side": lambda m: m.encode_image(torch.randn(1, 3, 24, 20)),
    "no pixels in a tensor": lambda m: m.encode_image(torch.zeros(1, 3, 0, 24, dtype=torch.uint8)),
    "pixels divided by 255": lambda m: m.encode_image(torch.rand(2, 3, 24, 24)),
    "pixels divided by 255 in a list": lambda m: m.classify([torch.rand(3, 24, 24)], NAMES),
    "pixels divided by 255 for dense": lambda m: m.dense(torch.rand(2, 3, 24, 24)),
    "odd side": lambda m: m.dense(torch.zeros(1, 3, 24, 20, dtype=torch.uint8)),
    "odd size": lambda m: m.preprocess(IMAGES[0], 20),
    "no pixels": lambda m: m.preprocess(IMAGES[0], 0),
    "preprocess a tensor": lambda m: m.preprocess(torch.zeros(3, 24, 24)),
    "no text": lambda m: m.encode_text([]),
    "number": lambda m: m.encode_text([3]),
    "names in a string": lambda m: m.classify(IMAGES, "cat"),
    "no names": lambda m: m.classify(IMAGES, []),
    "prompt without a place": lambda m: m.classify(IMAGES, NAMES, templates=["a"]),
    "PIL and floats": lambda m: m.encode_image([IMAGES[0], torch.zeros(3, 24, 24)]),
    "bytes and floats": lambda m: m.dense([torch.zeros(3, 24, 24, dtype=torch.uint8), torch.zeros(3, 24, 24)]),
    "kinds in other batches": lambda m: m.encode_image([*IMAGES[:1] * pretrained.BATCH, torch.zeros(3, 24, 24)]),
    "sizes in other batches": lambda m: m.encode_image(
        [torch.zeros(3, s, s) for s in (*[24] * pretrained.BATCH, 16)],
    ),
    "an image without pixels": lambda m: m.encode_image(Image.Image()),
    "an image without height": lambda m: m.preprocess(Image.new("RGB", (5, 0))),
    "size in a string": lambda m: m.preprocess(IMAGES[0], "48"),
    "size of three": lambda m: m.preprocess(IMAGES[0], (24, 24, 3)),
    "size in fractions": lambda m: m.preprocess(IMAGES[0], 24.0),
    "sparse": lambda m: m.encode_image(torch.zeros(1, 3, 24, 24).to_sparse()),
    "sparse in a list": lambda m: m.encode_image([torch.zeros(3, 24, 24).to_sparse()]),
    "meta": lambda m: m.dense(torch.zeros(1, 3, 24, 24, device="meta")),
    "bare number": lambda m: m.encode_text(5),
    "None for a text": lambda m: m.encode_text(None),
    "None for names": lambda m: m.classify(IMAGES, None),
    "a number for prompts": lambda m: m.classify(IMAGES, NAMES, templates=5),
    "prompts in a string": lambda m: m.classify(IMAGES, NAMES, templates="a {}"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_the_way_out(model, mistake):
    with pytest.raises(ValueError, match=r"give |take |divided|must be |Image\.fromarray"):
        MISTAKES[mistake](model)


def test_a_cut_image_file_is_a_mistake(model):
    encoded = io.BytesIO()
    random_image(0, 200, 200).save(encoded, "jpeg")
    with pytest.raises(ValueError, match="cannot be decoded"):
        model.encode_image(Image.open(io.BytesIO(encoded.getvalue()[:2000])))


def test_arguments_of_load_are_checked(run, tmp_path):
    for arguments, message in (
        ({"model": "average"}, "give 'student' or 'teacher'"),
        ({"dtype": torch.int8}, r"give torch\.float32"),
        ({"device": "abacus"}, r"device='abacus' cannot be used .*; give 'cpu' or 'cuda'"),
        ({"device": "hpu"}, r"device='hpu' cannot be used"),
        ({"device": "meta"}, r"device='meta' cannot be used"),
        ({"device": 1.5}, r"device='1\.5' cannot be used"),
        ({"device": "cuda:99"}, r"device='cuda:99' cannot be used"),
    ):
        with pytest.raises(ValueError, match=message):
            silc.load(run, **arguments)
    with pytest.raises(ValueError, match="is no run and holds one model"):
        silc.load(run / "open_clip", model="teacher")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=f"{tmp_path / 'file'}.*give "):
        silc.load(tmp_path / "file")
    with pytest.raises(ValueError, match=r"none' does not exist; give a run folder, a checkpoint, an export"):
        silc.load(tmp_path / "none")
    for path in (None, b"runs", 5, "a\0b"):
        with pytest.raises(ValueError, match="give the path of a file or folder"):
            silc.load(path)
    with pytest.raises(ValueError, match="holds neither a checkpoint nor an export; give a run folder, a checkpoint"):
        silc.load(tmp_path)


def test_a_checkpoint_without_a_teachers_tower(config, tmp_path):
    path = write_run(tmp_path, config, make_weights(config, 1), {"head.w": torch.ones(1)})
    with pytest.raises(ValueError, match="head-only EMA teacher has no image tower"):
        silc.load(tmp_path, model="teacher", device="cpu")
    (path / "teacher.safetensors").unlink()
    write_manifest(path)
    with pytest.raises(ValueError, match="has no teacher weights"):
        silc.load(tmp_path, model="teacher", device="cpu")
