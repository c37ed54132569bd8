"""The photometric list by Triton against its definition in float64."""

import pytest
import torch

from silc_kernels import photometric
from silc_kernels.common import triton_runtime as runtime
from silc_kernels.photometry import naive, triton_backend, triton_launch
from tests.kernels.photometry.problems import differing, row, rows, views

# The scratch memory's fixed point and float32 round some values to the other side of a half.
SHARE = 0.005
SHAPES = [(25, 3, 24, 24), (25, 3, 7, 45), (3, 3, 40, 200)]
if torch.cuda.is_available() and not runtime.INTERPRET:
    SHAPES += [(100, 3, 256, 256), (400, 3, 96, 96), (4, 3, 1024, 1024)]


def distorted(device, given, parameters, **options):
    return photometric(given.to(device), parameters.to(device), backend="triton", **options)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_list_is_within_a_level(device, shape):
    given, parameters = views(*shape), rows(shape[0])
    assert differing(distorted(device, given, parameters), naive.photometric(given, parameters)) < SHARE


@pytest.mark.parametrize(
    "alone",
    [
        *({"order": order, "brightness": 1.4, "contrast": 0.6, "saturation": 1.2, "hue": 0.1} for order in (0, 9, 23)),
        {"grey": 1},
        *({"sigma": sigma} for sigma in (0.1, 0.5, 2.5 / 3, 3.5 / 3, 1.5, 5.5 / 3, 2.0)),
        {"solarize": 1},
        {"order": 23, "brightness": 8, "contrast": 8, "saturation": 8, "hue": 1, "sigma": 2, "solarize": 1},
        {"order": 3, "brightness": 0, "contrast": 0, "saturation": 0, "hue": -1},
    ],
    ids=str,
)
def test_each_step_alone_and_its_extremes(device, alone):
    given = views(1, 3, 20, 20)
    assert differing(distorted(device, given, row(**alone)), naive.photometric(given, row(**alone))) < 0.02


def test_nothing_is_done_where_nothing_is_asked_for(device):
    given = views(2, 3, 8, 8)
    assert torch.equal(distorted(device, given, row().expand(2, -1)).cpu(), given)
    assert torch.equal(distorted(device, given[:1], row(order=5)).cpu(), given[:1])


def test_views_in_parts_are_the_views_at_once(device, monkeypatch):
    """Scratch memory is bounded; and no view sees another, or what scratch memory held before."""
    given, parameters = views(30, 3, 12, 12), rows(30)
    whole = distorted(device, given, parameters)
    monkeypatch.setattr(triton_launch, "SCRATCH_VALUES", 3 * 12 * 12 * 7)
    assert torch.equal(distorted(device, given, parameters), whole)
    assert torch.equal(distorted(device, given[11:12], parameters[11:12]), whole[11:12])


def test_several_tiles_and_sums_of_the_grey(device, monkeypatch):
    """Launches of small tiles: more partial sums than are added at a time, and a last tile that is not full."""
    small = {key: triton_launch.LaunchConfig(4, 64, 2) for key in triton_launch.SHIPPED}
    monkeypatch.setattr(triton_launch, "SHIPPED", small)
    monkeypatch.setattr(triton_backend, "PARTIALS", 4)
    given, parameters = views(4, 3, 17, 35), rows(4)
    parameters[:, 4] = torch.tensor([5.0, 11, 17, 23])
    assert differing(distorted(device, given, parameters), naive.photometric(given, parameters)) < SHARE


def test_in_place_and_twice_bitwise_the_same(device):
    given, parameters = views(25, 3, 24, 24), rows(25)
    first, over = distorted(device, given, parameters), given.to(device).clone()
    second = distorted(device, over, parameters, inplace=True)
    assert second.data_ptr() == over.data_ptr()
    assert torch.equal(first, second)


def test_parameters_may_stay_on_the_host(device):
    given, parameters = views(3, 3, 16, 16), rows(3)
    assert torch.equal(
        photometric(given.to(device), parameters, backend="triton"), distorted(device, given, parameters)
    )


def test_views_shorter_than_a_blur_go_to_plain_torch(device):
    given, parameters = views(2, 3, 6, 9), rows(2)
    with pytest.raises(ValueError, match="views of 7 pixels a side or more, not 6"):
        distorted(device, given, parameters)
    assert differing(photometric(given.to(device), parameters), naive.photometric(given, parameters)) < SHARE


def test_the_operator_passes_opcheck_and_compiles(device):
    given, parameters = views(2, 3, 16, 16).to(device), rows(2).to(device)
    expected = photometric(given, parameters, backend="triton")
    torch.library.opcheck(torch.ops.silc_kernels.photometric_triton, (given, parameters))
    call = torch.compile(lambda v: photometric(v, parameters, backend="triton"), fullgraph=True, backend="aot_eager")
    assert torch.equal(call(given), expected)
