"""Which backend a call gets, and why."""

import warnings
from types import SimpleNamespace

import pytest
import torch

import silc_kernels
from silc_kernels.common import dispatch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OPS = ["contrastive_loss", "crop_resize", "distill_head_loss", "distill_loss", "patch_embed", "photometric"]


@pytest.fixture
def registry(monkeypatch):
    """A registry of its own: {"op": {"torch": ...}}."""
    monkeypatch.setattr(dispatch, "_REGISTRY", {})
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    dispatch.register("op", "torch", lambda x: x + 1)
    return dispatch


def test_every_op_has_a_torch_backend_and_a_banner_row(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    rows = silc_kernels.report("cpu")
    assert [row.op for row in rows] == OPS
    assert all(row.backend == "torch" and "cpu" in row.reason for row in rows)
    assert all(set(backends) == {"torch", "triton"} for backends in dispatch._REGISTRY.values())


def test_triton_is_taken_on_cuda_only(registry):
    registry.register("op", "triton", lambda x: x + 2, lambda device, tensors: (device.type == "cuda", "needs a GPU"))
    assert registry.choose("op", CUDA)(0) == 2
    assert registry.choose("op", CPU)(0) == 1
    assert registry.report("cuda") == [("op", "triton", "needs a GPU")]


def test_a_call_that_triton_refuses_falls_back_with_its_reason(registry):
    registry.register("op", "triton", lambda x: x + 2, lambda device, tensors: (not tensors, "width 7 is odd"))
    assert registry.choose("op", CUDA)(0) == 2
    on_gpu = SimpleNamespace(device=CUDA)
    assert registry.choose("op", [on_gpu])(0) == 1
    with pytest.raises(ValueError, match="width 7 is odd"):
        registry.choose("op", [on_gpu], "triton")


def test_argument_wins_over_environment_over_automatic(registry, monkeypatch):
    registry.register("op", "other", lambda x: x + 3)
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "other")
    assert registry.choose("op", CPU)(0) == 3
    assert registry.choose("op", CPU, "torch")(0) == 1
    assert registry.report("cpu")[0].reason == "forced by SILC_KERNELS_BACKEND=other"


def test_an_empty_variable_is_not_set(registry, monkeypatch):
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "")
    assert registry.report("cpu") == [("op", "torch", "plain torch, chunked: the choice on cpu")]


def test_forcing_what_is_not_there_lists_what_is(registry, monkeypatch):
    with pytest.raises(ValueError, match=r"no backend 'triton'.*registered: torch"):
        registry.choose("op", CPU, "triton")
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "cuda")
    with pytest.raises(ValueError, match="SILC_KERNELS_BACKEND=cuda"):
        registry.choose("op", CPU)
    with pytest.raises(ValueError, match="unknown op 'foo'; registered: op"):
        registry.report("cpu", {"foo": "triton"})
    with pytest.raises(ValueError, match="unknown op 'nothing'"):
        registry.choose("nothing", CPU)
    with pytest.raises(ValueError, match="automatic choice"):
        registry.register("op", "auto", lambda x: x)


@pytest.mark.parametrize("error", [RuntimeError("Found no NVIDIA driver"), AssertionError("not compiled with CUDA")])
def test_a_report_for_a_device_that_is_not_there(registry, error):
    def supports(device, tensors):
        raise error

    registry.register("op", "triton", lambda x: x, supports)
    with pytest.raises(ValueError, match=rf"torch cannot use 'cuda' here; ask for 'cpu' \({error}\)"):
        registry.report("cuda")


@pytest.fixture
def warned_anew():
    dispatch._warn_renamed.cache_clear()
    yield
    dispatch._warn_renamed.cache_clear()


NOTE = r"the backend 'reference' is now called 'torch'"


@pytest.mark.usefixtures("warned_anew")
def test_the_earlier_name_of_torch_is_accepted_with_one_note(registry, monkeypatch):
    with pytest.warns(FutureWarning, match=NOTE):
        chosen = registry.choose("op", CPU, "reference")
    assert chosen(0) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no second note
        assert registry.report("cpu", {"op": "reference"}) == [("op", "torch", "forced by the backend argument")]
        monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "reference")
        assert registry.choose("op", CPU)(0) == 1
        assert registry.report("cpu")[0].reason == "forced by SILC_KERNELS_BACKEND=reference"


@pytest.mark.usefixtures("warned_anew")
def test_the_earlier_name_is_accepted_in_compiled_code(monkeypatch):
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)
    inputs = torch.randn(2, 3, 5), torch.randn(2, 3, 5), torch.zeros(5)

    def loss(student, teacher, center):
        options = {"student_temp": 0.1, "teacher_temp": 0.04}
        return silc_kernels.distill_loss(student, teacher, center, **options, backend="reference")

    compiled = torch.compile(loss, fullgraph=True, backend="eager")(*inputs)
    with pytest.warns(FutureWarning, match=NOTE):
        eager = loss(*inputs)
    torch.testing.assert_close(eager, compiled)


def test_ops_run_through_the_dispatcher(monkeypatch):
    with pytest.raises(ValueError, match=r"distill_loss: backend 'triton'.*set TRITON_INTERPRET=1"):
        silc_kernels.distill_loss(
            torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.zeros(2), student_temp=1, teacher_temp=1, backend="triton"
        )
    marker = dispatch.Backend(lambda *args, **kwargs: "marked", dispatch.anywhere)
    monkeypatch.setitem(dispatch._REGISTRY["patch_embed"], "mark", marker)
    crop, weight, table = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, 3, 8, 8), torch.zeros(1, 4)
    marked = silc_kernels.patch_embed(
        [crop], weight, torch.zeros(4), [table], mean=(0,) * 3, std=(1,) * 3, backend="mark"
    )
    assert marked == "marked"


def test_autocast_does_not_change_the_precision_of_an_op():
    features = torch.nn.functional.normalize(torch.randn(8, 16), dim=-1)
    scale = torch.tensor([10.0])
    expected = silc_kernels.contrastive_loss(features, features, scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(silc_kernels.contrastive_loss(features, features, scale), expected)
