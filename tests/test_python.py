"""`import silc` is light; `silc.load` and `silc.train` are what a notebook needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import silc
from silc.errors import RunStopped

ROOT = Path(__file__).resolve().parents[1]


def python(code: str) -> None:
    """Run code in a fresh process."""
    path = f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path}, timeout=100)


def test_the_import_is_light():
    python(
        "import sys, silc\n"
        "assert silc.__version__ and {'load', 'train', '__version__'} <= set(dir(silc))\n"
        "assert callable(silc.train)\n"
        "heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'yaml', 'open_clip', 'timm', 'deepspeed'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_train_is_one_object_before_and_after_its_modules_are_imported():
    python(
        "import silc\n"
        "before = silc.train\n"
        "import silc.train.schedule\n"
        "from silc import train\n"
        "assert silc.train is before is train and callable(train) and silc.train.schedule\n"
        "try:\n"
        "    silc.train('no such preset')\n"
        "except ValueError as error:\n"
        "    assert 'no preset' in str(error)\n"
    )


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'silc' has no attribute 'trian'"):
        silc.trian  # noqa: B018
    assert set(silc.__all__) <= set(dir(silc))
    assert (ROOT / "silc" / "py.typed").is_file()


@pytest.fixture
def trained(monkeypatch) -> list:
    """Configurations that reach the trainer, which does not run."""
    from silc.train import run

    seen: list = []
    monkeypatch.setattr(run, "run", lambda config, command: seen.append(config) or Path(config.train.out))
    return seen


def test_sections_override_the_preset(trained):
    folder = silc.train(
        "sample",
        train={"steps": 120, "out": Path("runs/x")},
        optim={"lr": 1e-5, "warmup_steps": 7},
        data={"shards": ("a b.tar", Path("c.tar")), "mean": [0.1, 0.2, 0.3]},
        model={"vision": {"depth": 2}},
        objective={"init_scale": None, "contrastive": "softmax"},
        eval={"templates": ["a {}: 'x'"]},
    )
    (config,) = trained
    assert folder == Path("runs/x")
    assert (config.preset, config.train.steps, config.train.out) == ("sample", 120, "runs/x")
    assert config.optim.lr == 1e-5
    assert config.data.shards == ["a b.tar", "c.tar"]
    assert config.data.mean == (0.1, 0.2, 0.3)
    assert (config.model.vision.depth, config.model.vision.width) == (2, 128)
    assert config.objective.init_scale is None
    assert config.eval.templates == ["a {}: 'x'"]
    preset = yaml.safe_load((ROOT / "silc/presets/sample.yaml").read_text())
    assert config.train.global_batch == preset["train"]["global_batch"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"trian": {"steps": 3}}, r"unknown key 'trian.*did you mean 'train"),
        ({"train": {"stepz": 3}}, r"unknown key 'train\.stepz'; did you mean 'train\.steps'"),
        ({"train": {"steps": "many"}}, r"train\.steps='many'"),
        ({"steps": 3}, r"steps=3: give a section .* train=\{\"steps\": 200\}"),
        ({"train": {"steps": object()}}, r"train\.steps=<object.*give numbers, text"),
        ({"train": {"steps": 10}, "optim": {"pattern": {1, 2}}}, r"optim\.pattern"),
    ],
)
def test_a_mistake_is_a_value_error(trained, sections, message):
    with pytest.raises(ValueError, match=message):
        silc.train("sample", **sections)
    assert trained == []


def test_a_failure_is_passed_on(monkeypatch):
    from silc.train import run

    def fail(config, command):
        raise RunStopped("the disk is full")

    monkeypatch.setattr(run, "run", fail)
    with pytest.raises(RunStopped, match="disk is full"):
        silc.train("sample")


SMALL = {
    "model": {
        "vision": {"image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2},
        "text": {"width": 16, "depth": 1, "heads": 2, "context_length": 8},
        "head": {"prototypes": 16, "hidden": 16, "bottleneck": 8},
    },
    "views": {"global_size": 16, "local_size": 8, "n_local": 1},
    "data": {"sample_scenes": 64, "workers": 0, "shuffle_block": 64},
    "optim": {"warmup_steps": 1, "cooldown_steps": 1},
    "eval": {"after": [], "during": [], "contact_sheet": False, "report": False},
}


def test_training_leaves_the_process_as_it_was(tmp_path):
    """Neither a launcher's variables nor a process group; the second run in a process has the first one's weights."""
    python(f"""
import os
import torch, torch.distributed as dist
import silc
small = {SMALL!r}
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
for name in names:
    os.environ.pop(name, None)
os.environ["MASTER_PORT"] = "29777"

def left():
    assert [os.environ.get(name) for name in names] == [None] * 4 + ["29777"]
    assert not dist.is_initialized()

def train(out):
    run = dict(steps=3, global_batch=8, log_every=1, out=out, tensorboard=False)
    return silc.train("sample", train=run, **small)

def weights(run):
    model = silc.load(run, device="cpu")
    return model._towers.model.state_dict()

first = weights(train({str(tmp_path / "a")!r}))
left()
try:
    train({str(tmp_path / "a")!r})  # found after the process group is made
except ValueError as error:
    assert "holds an earlier run" in str(error)
else:
    raise AssertionError
left()
second = weights(train({str(tmp_path / "b")!r}))
left()
assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
third = weights(train({str(tmp_path / "c")!r}))
assert dist.is_initialized()  # of the caller: not ours to end
assert all(torch.equal(first[name], third[name]) for name in first)
""")


def test_training_begins_with_a_model_of_another_library(tmp_path):
    """open_clip's, with its tokenizer: the first losses are those of its weights, and the report is in the log."""
    python(f"""
import json
import numpy as np, torch, webdataset as wds
import torch.nn.functional as F
from pathlib import Path
import open_clip, silc
from PIL import Image
from tests.data.small_tokenizers import make_word_tokenizer
from tests.interchange.foreign import MODEL_CFG, TOWER, changed, write_open_clip

base = Path({str(tmp_path)!r})
write_open_clip(base / "open_clip", changed(MODEL_CFG, "text_cfg.hf_tokenizer_name", "org/name"))
make_word_tokenizer(base / "open_clip", ["thing", "red", *map(str, range(8))])
texts = [f"thing {{number}}" for number in range(8)]
with wds.TarWriter(str(base / "a.tar")) as writer:
    for number, text in enumerate(texts):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        writer.write({{"__key__": str(number), "png": Image.fromarray(pixels), "txt": text}})
run = silc.train(
    "sample",
    train=dict(init=base / "open_clip", steps=2, global_batch=8, log_every=1, out=base / "run", tensorboard=False),
    model=dict(
        vision=dict(image_size=48, patch_size=8, width=64, depth=2, heads=2, mlp_ratio=2.5),
        text=dict(context_length=12, vocab_size=90, width=48, depth=2, heads=3),
        head=dict(prototypes=16, hidden=16, bottleneck=8),
    ),
    views=dict(n_global=0, n_local=0, global_size=48),
    objective=dict(contrastive="sigmoid", contrastive_views="original", distill=False),
    data=dict(shards=[base / "a.tar"], tokenizer=base / "open_clip", mean=[0.4, 0.5, 0.6], std=[0.5, 0.6, 0.7],
              workers=0, shuffle_block=8, unique_captions=False),
    optim=dict(warmup_steps=0, cooldown_steps=0),
    eval=dict(after=[], during=[], contact_sheet=False, report=False),
)
rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
twin, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{{base / 'open_clip'}}")
tokens = open_clip.get_tokenizer(f"local-dir:{{base / 'open_clip'}}")(texts)
images = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (48, 48, 3), dtype=np.uint8)) for n in range(8)]
with torch.no_grad():
    image, text, scale, bias = twin.eval()(torch.stack([preprocess(each) for each in images]), tokens)
    logits = scale * image @ text.T + bias
    loss = -F.logsigmoid(logits * (2 * torch.eye(8) - 1)).sum() / 8
assert abs(rows[0]["loss_contrastive"] - loss.item()) < 2e-5 * loss.item(), (rows[0], loss)
assert rows[0]["init"]["loaded"] == len(twin.state_dict()) - 2 and rows[0]["init"]["initialised"] == 0
assert rows[1]["loss_contrastive"] != rows[0]["loss_contrastive"]
""")
