"""Files of moments: what any ranks wrote, any ranks read, or a message says what is wrong."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from silc.train.moments import MOMENTS, Moments, Part, load_moments

SIZES = {"a": 7, "b.weight": 40, "c": 1}


def parts(cuts: list[int], values: dict[str, torch.Tensor]) -> list[list[Part]]:
    """Each rank's parts of all parameters, which lie one after another and are cut at `cuts`. Views of `values`."""
    edges = [0, *sorted(cuts), sum(SIZES.values())]
    ranks: list[list[Part]] = [[] for _ in edges[1:]]
    at = 0
    for name, size in SIZES.items():
        for rank, (low, high) in enumerate(itertools.pairwise(edges)):
            start, stop = max(low, at), min(high, at + size)
            if start < stop:
                own = slice(start - at, stop - at)
                ranks[rank].append(
                    Part(
                        name,
                        start - at,
                        stop - start,
                        lambda: torch.zeros(0),
                        lambda key, name=name, own=own: values[f"{key}/{name}"][own],
                    )
                )
        at += size
    return ranks


def some_values() -> dict[str, torch.Tensor]:
    return {f"{key}/{name}": torch.rand(size) for key in MOMENTS for name, size in SIZES.items()}


def write(folder: Path, cuts: list[int], values: dict[str, torch.Tensor], step: int = 9) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for rank, mine in enumerate(parts(cuts, values)):
        moments = Moments.of(rank, mine, step, copied=False)
        (folder / moments.name).write_bytes(moments.serialized())


CUTS = st.lists(st.integers(0, sum(SIZES.values())), max_size=6)


@given(before=CUTS, after=CUTS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_ranks_read_what_any_ranks_wrote(tmp_path, before, after):
    values = some_values()
    write(tmp_path / "engine", before, values)
    found = {name: torch.full_like(value, torch.nan) for name, value in values.items()}
    assert {load_moments(tmp_path / "engine", mine) for mine in parts(after, found)} == {9}
    assert all(torch.equal(found[name], value) for name, value in values.items())


def spoil_missing(folder: Path) -> None:
    (folder / "moments_00001.safetensors").unlink()


def spoil_all(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def spoil_twice(folder: Path) -> None:
    (folder / "moments_00007.safetensors").write_bytes((folder / "moments_00001.safetensors").read_bytes())


def spoil_step(folder: Path) -> None:
    file = folder / "moments_00001.safetensors"
    save_file(load_file(file), file, {"step": "8", "offsets": json.dumps({"b.weight": 3, "c": 0})})


def spoil_metadata(folder: Path) -> None:
    file = folder / "moments_00001.safetensors"
    save_file(load_file(file), file)


def spoil_bytes(folder: Path) -> None:
    (folder / "moments_00001.safetensors").write_bytes(b"\xff" * 100)


@pytest.mark.parametrize(
    "spoil",
    [spoil_missing, spoil_all, spoil_twice, spoil_step, spoil_metadata, spoil_bytes],
    ids=lambda one: one.__name__,
)
def test_damage_is_named(tmp_path, spoil):
    write(tmp_path / "engine", [10], some_values())
    spoil(tmp_path / "engine")
    with pytest.raises(ValueError, match=r"engine is damaged \(.*\); take an older checkpoint"):
        load_moments(tmp_path / "engine", parts([], some_values())[0])
