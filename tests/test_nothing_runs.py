"""Code that is planted in a file, of any kind that is read, does not run; the file is refused in words, or not used."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import silc
from silc import config_io
from silc.commands import claims, evaluate, export, train
from silc.commands.common import MISTAKE
from silc.config import Config, DataConfig
from silc.data.dataset import BatchDataset
from silc.data.layouts import open_data_set
from silc.data.shards import Unreadable
from silc.data.tokenizer import build_tokenizer
from silc.data.training_set import open_training_set
from silc.errors import RunStopped
from silc.evaluate.report.page import read_log
from silc.evaluate.results import read_results
from silc.storage import Board
from silc.train import checkpoint
from silc.train.metrics import drop_later_rows
from tests.soak.common import config as soak_config
from tests.soak.common import write_set
from tests.test_pretrained import make_config, make_weights, write_manifest, write_run

KINDS = ("pickle", "torch", "numpy", "yaml")


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def canary(tmp_path) -> Iterator[Path]:
    """A file that is there when planted code has run; it must not be."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def planted(kind: str, canary: Path) -> bytes:
    """A file whose loading, without care, makes the canary."""
    buffer = io.BytesIO()
    if kind == "pickle":
        return pickle.dumps(Hostile(canary), protocol=2)
    if kind == "torch":
        torch.save({"state": Hostile(canary)}, buffer)
    elif kind == "numpy":
        np.save(buffer, np.array([Hostile(canary)], dtype=object), allow_pickle=True)
    else:
        return f"train: !!python/object/apply:os.open ['{canary}', 65]\n".encode()  # 65: make it, to write
    return buffer.getvalue()


LOADERS: dict[str, Callable[[bytes], object]] = {
    "pickle": pickle.loads,
    "torch": lambda data: torch.load(io.BytesIO(data), weights_only=False),
    "numpy": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
    "yaml": yaml.unsafe_load,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planted_would_run(kind, tmp_path):
    path = tmp_path / "would"
    LOADERS[kind](planted(kind, path))
    assert path.exists()


def answered(capsys, call: Callable[[], object]) -> None:
    """`call` is a command that ends with status 2 and one line of words, or is not touched by what is planted."""
    try:
        status = call()
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr().err
    assert status in (0, MISTAKE)
    assert "Traceback" not in said
    if status == MISTAKE:
        assert 0 < len(said.splitlines()[-1]) < 2000


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = make_config()
    write_run(folder, config, make_weights(config, 1), make_weights(config, 2))
    (folder / "checkpoints" / "latest").write_text("step_00000007")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_in_any_file_of_a_checkpoint(run, tmp_path, canary, capsys, kind):
    names = [path.relative_to(run) for path in sorted((run / "checkpoints").rglob("*")) if path.is_file()]
    assert {path.name for path in names} >= {"trainer.pt", "manifest.json", "config.yaml", "latest"}
    refusals = []
    for number, name in enumerate(names):
        copy = tmp_path / str(number)
        shutil.copytree(run, copy)
        (copy / name).write_bytes(planted(kind, canary))
        if name.name not in ("manifest.json", "latest"):
            write_manifest((copy / name).parent)
        answered(capsys, lambda: export.main([str(copy), str(tmp_path / "out")]))  # noqa: B023
        path = copy / "checkpoints" / "step_00000007"
        refusals += refused(
            lambda: silc.load(copy, device="cpu"),  # noqa: B023
            lambda: silc.load(path, device="cpu", model="teacher"),  # noqa: B023
            lambda: checkpoint.load_trainer(path, torch.device("cpu")),  # noqa: B023
            lambda: checkpoint.load_config(path),  # noqa: B023
            lambda: checkpoint.load_weights(path, "student"),  # noqa: B023
            lambda: checkpoint.load_weights(path, "teacher"),  # noqa: B023
            lambda: checkpoint.newest(copy),  # noqa: B023
        )
    for name in ("trainer.pt", "manifest.json", "config.yaml", "student.safetensors", "teacher.safetensors"):
        assert any(name in words for words in refusals), name


def refused(*calls: Callable[[], object]) -> list[str]:
    """The words of those that raise ValueError; the others read what they need from other files."""
    found = []
    for call in calls:
        try:
            call()
        except ValueError as error:
            found.append(str(error))
    assert all(0 < len(words) < 2000 for words in found)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_in_any_file_of_an_export(run, tmp_path, canary, capsys, kind):
    names = [path.relative_to(run) for path in sorted((run / "open_clip").rglob("*")) if path.is_file()]
    refusals = []
    for number, name in enumerate(names):
        folder = tmp_path / str(number) / "open_clip"
        shutil.copytree(run / "open_clip", folder)
        (folder.parent / name).write_bytes(planted(kind, canary))
        refusals += refused(lambda: silc.load(folder, device="cpu"))  # noqa: B023
        words = [str(folder), "--tasks", "retrieval", "--out", str(tmp_path / "results")]
        answered(capsys, lambda: evaluate.main(words))  # noqa: B023
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        assert any(name in words for words in refusals), name


@pytest.mark.parametrize("kind", KINDS)
def test_in_configurations_and_presets(run, tmp_path, canary, capsys, kind):
    file = tmp_path / "mine.yaml"
    file.write_bytes(planted(kind, canary))
    (tmp_path / "extending.yaml").write_text("extends: mine\n")
    extending = str(tmp_path / "extending.yaml")
    for words in (["--config", str(file)], ["--preset", str(file)], ["--preset", extending]):
        with pytest.raises(SystemExit, match="2"):
            train.main([*words, "--dry-run"])
    with pytest.raises(SystemExit, match="2"):
        claims.main(["--preset", str(file), "--dry-run", "--out", str(tmp_path / "claims")])
    assert evaluate.main([str(run), "--preset", str(file), "--out", str(tmp_path / "results")]) == MISTAKE
    with pytest.raises(ValueError, match=r"\w"):
        config_io.read_config(file)
    assert "Traceback" not in capsys.readouterr().err


def test_in_a_value_of_the_command_line(canary, capsys):
    tag = planted("yaml", canary).decode().partition(": ")[2].strip()
    for word in (f"train.out={tag}", f"optim.rules=[{tag}]", "train.steps=!!python/name:os.system"):
        with pytest.raises(SystemExit, match="2"):
            train.main([word, "--dry-run"])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_members_of_shards(tmp_path, canary, kind):
    """As members that other loaders unpickle by their names, and in place of those that are read here."""
    data = planted(kind, canary)
    picture = io.BytesIO()
    Image.new("RGB", (16, 16)).save(picture, "JPEG")
    members = dict.fromkeys(("pyd", "pickle", "pkl", "pth", "pt", "npy", "npz", "mp", "yaml", "cbor", "ten"), data)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(160):
            hostile = {"jpg": data} if number % 2 else {"json": data}
            for name, body in ({"jpg": picture.getvalue(), "txt": b"a dog"} | members | hostile).items():
                info = tarfile.TarInfo(f"{number:03}.{name}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    run = soak_config([str(tmp_path)], max_skipped=1.0)
    dataset = BatchDataset(run, open_training_set(run), rank=0, world=1, local_from_position=0, board=Board(1))
    batch = dataset[0]
    assert {skip.reason for skip in batch.skipped} == {"undecodable image"}
    split = open_data_set(f"wds:{_wds(tmp_path)}", DataConfig(), ("dog", "cat")).test
    assert split.label(0) is None
    assert split.captions(0) == ["a dog"]
    with pytest.raises(Unreadable):
        split.image(1)


def _wds(folder: Path) -> Path:
    root = folder / "wds"
    (root / "test").mkdir(parents=True)
    shutil.move(folder / "0.tar", root / "test" / "0.tar")
    return root


@pytest.fixture(scope="module")
def indexed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("indexed") / "set"
    write_set(folder, [130, 130])
    open_training_set(soak_config([str(folder)]))  # makes the index
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_in_an_index_of_shards(indexed, tmp_path, canary, kind):
    names = [path.name for path in indexed.iterdir() if path.suffix != ".tar"]
    assert len(names) == 3
    for name in names:
        copy = tmp_path / name
        shutil.copytree(indexed, copy)
        (copy / name).write_bytes(planted(kind, canary))
        run = soak_config([str(copy)], max_skipped=1.0)
        try:
            data = open_training_set(run)
            BatchDataset(run, data, rank=0, world=1, local_from_position=0, board=Board(1))[0]
        except (ValueError, RunStopped) as error:
            assert 0 < len(str(error)) < 2000  # noqa: PT017


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_files_of_evaluation_sets(tmp_path, canary, kind):
    data = planted(kind, canary)

    def make(layout: str, names: list[str]) -> str:
        for name in names:
            path = tmp_path / layout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return f"{layout}:{tmp_path / layout}"

    ade = open_data_set(make("ade20k", ["images/validation/a.jpg", "annotations/validation/a.png"]), DataConfig(), None)
    for read in (ade.test.image, ade.test.mask):
        with pytest.raises(Unreadable):
            read(0)
    images = open_data_set(make("imagefolder", ["val/dog/a.jpg"]), DataConfig(), None)
    with pytest.raises(Unreadable):
        images.test.image(0)
    lists = ["ImageSets/Segmentation/val.txt"]
    wds = ["classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt", "test/0.tar"]
    for layout, names in (("voc20", lists), ("wds", wds)):
        with pytest.raises(ValueError, match=layout) as caught:
            open_data_set(make(layout, names), DataConfig(), None)
        assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_tokenizer(tmp_path, canary, kind):
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "config.json", "vocab.pkl"):
        (tmp_path / name).write_bytes(planted(kind, canary))
    with pytest.raises(ValueError, match=r"data\.tokenizer="):
        build_tokenizer(str(tmp_path), 16)


@pytest.mark.parametrize("kind", KINDS)
def test_in_what_a_run_left(tmp_path, canary, kind):
    for name in ("evaluation.json", "metrics.jsonl"):
        (tmp_path / name).write_bytes(planted(kind, canary))
    assert read_results(tmp_path) is None
    assert read_log(tmp_path)[0] == []
    drop_later_rows(tmp_path / "metrics.jsonl", 5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    run = claims.plan.Run("silc", 8, 0, Config())
    run.config.train.out = str(tmp_path)
    assert claims.metrics.evaluation(run) == []
    (tmp_path / "evaluation.json").write_text(json.dumps({"results": [{"error": None}], "step": 1}))
    assert claims.metrics.read(run) == []
