"""The benchmark of decoding and crops: every way is timed beside ours, with its quality, and nothing wrong is timed."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from PIL import Image

from benchmarks.data import bench, crop_ways, crops
from silc.data.views.crops import MultiCrop


def test_a_quick_run_writes_a_row_of_every_way(tmp_path, capsys):
    bench.main(["--crops", "--quick", "--save", str(tmp_path)])
    told = capsys.readouterr().out
    assert "160x120: correct: decoding and crops bit for bit" in told
    with (tmp_path / "data_crops_cpu.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {"crops", "crops and list", "list alone", "decoding"}
    assert {row["provider"] for row in rows if row["kind"] == "crops"} == {
        "silc",
        "silc 0.1.0",
        "torchvision v2 uint8",
        "torchvision v2 float",
        "Pillow, torchvision v1",
        "lightly",
    }
    for row in rows:
        assert float(row["ms"]) > 0
        assert float(row["per_second"]) == pytest.approx(1e3 / float(row["ms"]), rel=1e-2)
        assert (row["psnr"] == "") == (row["kind"] in ("list alone", "decoding"))
        assert float(row["ratio"]) == 1 or row["provider"] != "silc"
        assert "lightly==" in row["versions"]
        assert row["device"]
        assert row["date"]


def test_pictures_are_photo_like_and_their_own():
    pictures = [crops.photo(64, 48, seed) for seed in range(3)]
    assert len(set(pictures)) == 3
    assert crops.photo(64, 48, 1) == pictures[1]
    assert Image.open(io.BytesIO(pictures[0])).size == (64, 48)


def test_quality_is_measured_against_exact_resizing():
    pictures = [crops.photo(160, 120, 0)]
    assert crops.psnr(pictures, crop_ways.torchvision_float) > 70  # the weights' own rounding
    whole = crops.psnr(pictures, lambda *cut: crop_ways.exact(*cut).round())
    assert 58.5 < whole < 59.5  # rounding alone, 10 log10(12 x 255^2) dB
    ours = crops.psnr(pictures, crop_ways.ours)
    assert ours == pytest.approx(crops.psnr(pictures, crop_ways.before), abs=1e-9)
    assert 56 < ours < whole
    assert crops.psnr(pictures, lambda pixels, box, size: torch.zeros(3, size, size)) < 10


def a_bit_off(tensor: torch.Tensor, bit: int) -> torch.Tensor:
    tensor.reshape(-1)[0] ^= bit
    return tensor


@pytest.mark.parametrize("wrong", ["decoding does not", "crops do not", "photometric list: .* levels off"])
def test_nothing_wrong_is_timed(monkeypatch, wrong):
    pictures = [crops.photo(80, 60, seed) for seed in range(2)]
    assert crops.gate(pictures).startswith("correct")
    decode, cut, distort = crops.decode_image, MultiCrop.cut, crop_ways.distort_
    if wrong.startswith("decoding"):
        monkeypatch.setattr(crops, "decode_image", lambda *args: a_bit_off(decode(*args), 1))
    elif wrong.startswith("crops"):
        monkeypatch.setattr(MultiCrop, "cut", lambda *args: (cut(*args), a_bit_off(args[3], 1)))
    else:
        monkeypatch.setattr(crop_ways, "distort_", lambda *args: (distort(*args), a_bit_off(args[0], 8)))
    with pytest.raises(ValueError, match=wrong):
        crops.gate(pictures)


def test_one_thread_during_the_measurement_alone():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    for row in crops.measure(crops.Plan(sizes=((48, 32),), pictures=1, rounds=1)):
        seen.append((row, torch.get_num_threads()))
    assert {threads for _, threads in seen} == {1}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
