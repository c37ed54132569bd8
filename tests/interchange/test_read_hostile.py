"""Files of strangers: nothing in them runs, none is looked for elsewhere, and what is damaged is refused in words."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from silc.files import inside
from silc.interchange.fit import fit
from silc.interchange.folder import MAX_JSON
from silc.interchange.read import hugging_face, is_readable, open_clip, read
from silc.interchange.tensors import MAX_HEADER, open_safetensors
from tests.interchange.foreign import write_open_clip
from tests.interchange.test_read_big_vision import arrays, write
from tests.interchange.test_read_hugging_face import write as write_hugging_face
from tests.test_nothing_runs import KINDS, canary, planted

__all__ = ["canary"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """One in each format."""
    root = tmp_path_factory.mktemp("models")
    write_open_clip(root / "open_clip")
    twin = write_hugging_face(root / "siglip")
    twin.save_pretrained(root / "parts", max_shard_size="100KB")
    write(root / "towers.npz", arrays())
    (root / "bare.safetensors").write_bytes((root / "open_clip" / open_clip.WEIGHTS).read_bytes())
    for path in root.iterdir():
        read(path)
    return {path.name: path for path in root.iterdir()}


def copied(model: Path, to: Path) -> Path:
    """To change one of its files."""
    place = to / model.name
    for path in [model] if model.is_file() else model.iterdir():
        copy = place if model.is_file() else place / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return place


def refusal(path: Path) -> str:
    """The words with which a model is refused."""
    with pytest.raises(ValueError, match=r"\w") as refused:
        read(path)
    said = str(refused.value)
    assert str(path.parent) in said
    assert len(said) < 2000
    assert said.isprintable()
    return said


FILES = [
    ("open_clip", open_clip.CONFIG),
    ("open_clip", open_clip.WEIGHTS),
    ("siglip", hugging_face.CONFIG),
    ("siglip", hugging_face.WEIGHTS),
    ("parts", hugging_face.INDEX),
    ("bare.safetensors", None),
    ("towers.npz", None),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("model", "file"), FILES)
def test_what_is_planted_in_a_file_does_not_run(models, tmp_path, canary, kind, model, file):
    place = copied(models[model], tmp_path)
    (place / file if file else place).write_bytes(planted(kind, canary))
    assert is_readable(place)
    refusal(place)


def test_what_is_planted_as_an_array_does_not_run(models, tmp_path, canary):
    """An array of objects is a pickle inside an .npz."""
    found = arrays() | {"img/embedding/bias": _objects(canary)}
    np.savez(tmp_path / "a.npz", **{f"params/{name}": value for name, value in found.items()})
    assert "is damaged" in refusal(tmp_path / "a.npz") or "of type 'object'" in refusal(tmp_path / "a.npz")


def test_a_pickle_under_the_name_of_safetensors_is_called_one(models, tmp_path):
    place = copied(models["siglip"], tmp_path)
    torch.save({"a": torch.zeros(3)}, place / hugging_face.WEIGHTS)
    assert "it is a pickle, which may run code" in refusal(place)


@pytest.mark.parametrize(("model", "file"), FILES)
def test_a_file_cut_at_any_kind_of_place_is_refused(models, tmp_path, model, file):
    place = copied(models[model], tmp_path)
    path = place / file if file else place
    whole = path.read_bytes()
    if path.suffix == ".json":
        whole = whole.rstrip()  # without the last line's end it is as good
    header = 8 + struct.unpack("<Q", whole[:8])[0] if path.suffix == ".safetensors" else 0
    places = {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 100, len(whole) - 22, len(whole) - 1}
    for cut in places | ({header - 1, header, header + 1} if header else set()):
        path.write_bytes(whole[:cut])
        refusal(place)
    path.write_bytes(whole)
    read(place)


@pytest.mark.parametrize(("model", "file"), FILES)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_refused_or_without_effect(models, tmp_path_factory, model, file, data):
    """A few bytes replaced, mostly where the structure is: near the beginning or the end."""
    place = copied(models[model], tmp_path_factory.mktemp("damaged"))
    path = place / file if file else place
    changed = bytearray(path.read_bytes())
    near = st.integers(0, min(2000, len(changed) - 1))
    for at in data.draw(
        st.lists(st.one_of(near, near.map(lambda back: len(changed) - 1 - back)), min_size=1, max_size=3)
    ):
        changed[at] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    try:
        read(place)
    except ValueError as error:
        assert len(str(error)) < 2000  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


def header(tensors: object, data: bytes = b"\0" * 16) -> bytes:
    """A safetensors file of a header that is not checked."""
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + data


def of(dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS = {
    "too long": struct.pack("<Q", 2**63) + b"{}",
    "longer than the file": struct.pack("<Q", 100) + b"{}",
    "longer than any": struct.pack("<Q", MAX_HEADER + 1) + b" " * (MAX_HEADER + 1),
    "no JSON": header(b"{nothing}"),
    "no object": header([1, 2]),
    "nested": header(b"[" * 100_000),
    "nested deeper": header(b'{"a":' * 100_000),
    "a name twice": header(b'{"a":%b,"a":%b}' % ((json.dumps(of()).encode(),) * 2)),
    "no bytes": b"",
    "no tensor": header({"a": 5}),
    "no shape": header({"a": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "a field too many": header({"a": of() | {"code": "x"}}),
    "a negative side": header({"a": of(shape=[-4])}),
    "a side of NaN": header(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}'),
    "a side of infinity": header(b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,16]}}'),
    "a side that is no number": header({"a": of(shape=[True])}),
    "an endless side": header(b'{"a":{"dtype":"F32","shape":[%b],"data_offsets":[0,16]}}' % (b"9" * 10_000)),
    "sides whose product overflows": header({"a": of(shape=[2**39, 2**39])}),
    "many dimensions": header({"a": of(shape=[1] * 10_000)}),
    "a type that is none": header({"a": of(dtype="F128")}),
    "offsets past the end": header({"a": of(offsets=[0, 64])}),
    "offsets backwards": header({"a": of(offsets=[16, 0])}),
    "offsets that overlap": header({"a": of(), "b": of()}),
    "a gap": header({"a": of(offsets=[4, 20])}, b"\0" * 20),
    "bytes at the end": header({"a": of()}, b"\0" * 17),
    "shape and offsets differ": header({"a": of(shape=[3])}),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_safetensors_that_are_none(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    path.write_bytes(HEADERS[kind])
    with bounded(), pytest.raises(ValueError, match=str(path)) as refused, open_safetensors([path]):
        pass
    assert len(str(refused.value)) < 500


def test_a_header_that_is_one(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(header({"a": of(), "__metadata__": {"format": "pt"}}))
    with open_safetensors([tmp_path / "a.safetensors"]) as found:
        assert torch.equal(found["a"].load(), torch.zeros(4))


def test_a_name_in_two_parts_is_refused(tmp_path):
    for name in "ab":
        save_file({"same": torch.zeros(3)}, tmp_path / f"{name}.safetensors")
    with (
        pytest.raises(ValueError, match="same is in another file too"),
        open_safetensors([tmp_path / "a.safetensors", tmp_path / "b.safetensors"]),
    ):
        pass


@contextmanager
def bounded(most: int = 64 << 20) -> Iterator[None]:
    """Python's and NumPy's memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


JSON: dict[str, Callable[[Path], object]] = {
    "of a gigabyte": lambda path: os.truncate(path, 1 << 30),
    "a little too large": lambda path: path.write_bytes(b" " * (MAX_JSON + 1)),
    "nested": lambda path: path.write_text("[" * 10_000),
    "nested deeper": lambda path: path.write_text('{"model_cfg":' * 100_000),
    "nested and whole": lambda path: path.write_text('{"model_type":' * 10_000 + "1" + "}" * 10_000),
    "nothing": lambda path: path.write_text(""),
    "a list": lambda path: path.write_text("[]"),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\0"),
    "a name twice": lambda path: path.write_text('{"model_type": "clip", "model_type": "siglip"}'),
    "sizes of NaN": lambda path: path.write_text(path.read_text().replace("48", "NaN")),
    "endless sizes": lambda path: path.write_text(path.read_text().replace("48", "9" * 10_000)),
    "infinite sizes": lambda path: path.write_text(path.read_text().replace("48", "1e999")),
    "sizes in words": lambda path: path.write_text(path.read_text().replace("48", '"' + "w" * 10_000 + '"')),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link out": lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize(("model", "file"), [("open_clip", open_clip.CONFIG), ("siglip", hugging_face.CONFIG)])
def test_descriptions_that_are_none(models, tmp_path, model, file, kind):
    place = copied(models[model], tmp_path)
    JSON[kind](place / file)
    is_readable(place)
    with bounded():
        refusal(place)


ELSEWHERE = [
    "../model.safetensors",
    "/etc/passwd.safetensors",
    "a/b.safetensors",
    "..",
    "",
    "a\0.safetensors",
    "C:\\a.safetensors",
]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_index_that_leads_out_of_its_folder_is_refused(models, tmp_path, name):
    place = copied(models["parts"], tmp_path)
    (tmp_path / "model.safetensors").write_bytes((models["siglip"] / hugging_face.WEIGHTS).read_bytes())
    index = json.loads((place / hugging_face.INDEX).read_text())
    index["weight_map"]["logit_scale"] = name
    (place / hugging_face.INDEX).write_text(json.dumps(index))
    assert "is no name of a file" in refusal(place) or "is no .safetensors file" in refusal(place)


@pytest.mark.parametrize(
    ("model", "file"),
    [("open_clip", open_clip.WEIGHTS), ("siglip", hugging_face.WEIGHTS), ("siglip", hugging_face.CONFIG)],
)
def test_links_out_of_the_folder_are_refused(models, tmp_path, model, file):
    place = copied(models[model], tmp_path / "in")
    (place / file).rename(tmp_path / file)
    (place / file).symlink_to(tmp_path / file)
    assert "is a link out of its folder" in refusal(place)
    (place / file).unlink()
    (tmp_path / file).rename(place / "blob.x")
    (place / file).symlink_to("blob.x")
    read(place)


def test_a_snapshot_of_the_hubs_cache_is_read(models, tmp_path):
    """Its files are links to blobs beside the snapshots."""
    place, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    copied(models["siglip"], place.parent)
    (place.parent / "siglip").rename(place)
    for path in list(place.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(Path("../../blobs") / path.name)
    read(place)
    (place / hugging_face.CONFIG).unlink()
    (place / hugging_face.CONFIG).symlink_to("../../../config.json")
    (tmp_path / "config.json").write_text("{}")
    assert "link out" in refusal(place)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b", "/a"])
def test_names_that_are_paths(tmp_path, name):
    with pytest.raises(ValueError, match="is no name of a file"):
        inside(tmp_path, name)


def test_sparse_weights_of_a_size_that_none_have_are_refused(models, tmp_path):
    place = copied(models["bare.safetensors"], tmp_path)
    os.truncate(place, 1 << 40)
    assert "at most" in refusal(place)


def test_sizes_are_compared_before_anything_is_read(models, tmp_path):
    """A table of 16 GB, which a sparse file of no blocks holds, and a description that does not ask for it."""
    place = copied(models["open_clip"], tmp_path)
    path = place / open_clip.WEIGHTS
    with open_safetensors([path]) as found:
        shapes = {name: stored.shape for name, stored in found.items()}
    shapes["text.token_embedding.weight"] = (1 << 26, 64)
    tensors, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape, dtype=np.int64))
        tensors[name], end = of(shape=shape, offsets=[end, end + size]), end + size
    path.write_bytes(header(tensors, b""))
    os.truncate(path, path.stat().st_size + end)
    assert path.stat().st_size > 1 << 34
    with bounded():
        assert "token_embedding.weight has shape [67108864, 64], not [90, 48]" in refusal(place)


@pytest.mark.parametrize("path", ["/proc/self/mem", "/dev/zero", "/proc/self/fd"])
def test_places_that_are_no_model(path):
    is_readable(Path(path))
    with pytest.raises(ValueError, match=path):
        read(Path(path))


def test_names_that_a_terminal_would_obey_are_shown_as_text(models, tmp_path):
    """In a description, among tensors that are refused and that are ignored, and in the library's words."""
    red = "\x1b[31m\u202egpj\r"
    place = copied(models["open_clip"], tmp_path)
    tree = json.loads((place / open_clip.CONFIG).read_text())
    tree["model_cfg"][red] = red
    (place / open_clip.CONFIG).write_text(json.dumps(tree))
    assert "\\x1b[31m" in refusal(place)
    bare = copied(models["bare.safetensors"], tmp_path)
    weights = load_file(bare)
    save_file(weights | {f"visual.{red}": torch.zeros(1)}, bare)
    assert "\\x1b[31m" in refusal(bare)
    save_file(weights | {red: torch.zeros(1)} | {f"{red}{number}": torch.zeros(1) for number in range(20)}, bare)
    source = read(bare)
    assert red in source.ignored
    assert all(line.isprintable() for line in fit(source, source.model)[1].lines())
    bare.write_bytes(header({red: of(shape=[3])}))
    refusal(bare)


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _objects(path: Path) -> np.ndarray:
    found = np.empty(64, object)
    found[:] = [_Touch(path)] * 64
    return found
