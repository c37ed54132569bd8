"""The weights of student-teacher pairs, in the form both distillation ops use."""

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.direct import eager
from ..common.transfer import sent

MOST_KEPT = 4096  # matrices of pair weights, a few numbers each; what comes later is made at every call


@dataclass(frozen=True)
class PairWeights:
    """Pair weights divided by their sum and by the number of samples: the loss is then a plain sum.

    matrix: [S, T]. per_student: [S], its row sums. shared: all students weigh the teachers alike, so that one mixture
    of the teachers, `matrix[0]`, serves all of them.
    """

    matrix: Tensor
    per_student: Tensor
    shared: bool

    @classmethod
    def of(cls, weights: Tensor | None, student: Tensor, teacher: Tensor, like: Tensor) -> "PairWeights":
        """For student [S, N, ...] and teacher [T, N, ...]; None: all pairs alike. Dtype and device of `like`."""
        matrix = _matrix(weights, student.shape[0], teacher.shape[0], student.shape[1], like.dtype, like.device)
        alike = (
            weights is None
            or (
                not torch.compiler.is_compiling()  # a graph has no values to look at
                and torch.equal(weights, weights[:1].expand_as(weights))  # where they lie: on the host without a wait
            )
        )
        return cls(matrix, matrix.sum(1), alike)


def pair_matrix(weights: Tensor | None, student: Tensor, teacher: Tensor) -> Tensor:
    """Pair weights [S, T] over their sum and the number of samples, for student [S, N, ...] and teacher [T, N, ...].

    None: all pairs alike. float32, on the device of `student`. Not to be changed: what is made of None or of values on
    the host is made once and kept, so that a later call copies nothing to the device, and a CUDA graph can hold it.
    """
    students, teachers, samples = student.shape[0], teacher.shape[0], student.shape[1]
    if not eager((student, weights)):
        return _matrix(weights, students, teachers, samples, torch.float32, student.device)
    if weights is None:
        return _kept((), torch.float32, students, teachers, samples, student.device)
    if weights.device.type == "cpu":
        # By value: what changes in place is seen, however it is changed.
        flat = tuple(value for row in weights.tolist() for value in row)
        return _kept(flat, weights.dtype, students, teachers, samples, student.device)
    return _matrix(weights, students, teachers, samples, torch.float32, student.device)


def _matrix(
    weights: Tensor | None, students: int, teachers: int, samples: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    if weights is None:
        return torch.full((students, teachers), 1 / (students * teachers * samples), dtype=dtype, device=device)
    wide = weights.detach().to(torch.promote_types(weights.dtype, dtype))
    # Of values that nobody has looked at: a negative one makes all of them NaN, as infinity, NaN and zeros alone do.
    wide = wide.masked_fill(wide < 0, torch.nan)
    # The largest becomes 1 before they are summed: weights of any size neither overflow nor vanish.
    matrix = (wide / wide.amax()).to(device, dtype)
    return matrix / (matrix.sum() * samples)


# Never dropped: a CUDA graph may read them.
_MATRICES: dict[Hashable, Tensor] = {}


def _kept(
    flat: tuple[float, ...], dtype: torch.dtype, students: int, teachers: int, samples: int, device: torch.device
) -> Tensor:
    key = flat, dtype, students, teachers, samples, device
    found = _MATRICES.get(key)
    if found is None:
        found = _made(flat, dtype, students, teachers, samples, device)
        # What a graph makes while it is captured holds nothing before it is replayed.
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if not capturing and len(_MATRICES) < MOST_KEPT:
            if device.type == "cuda":  # other streams will read it
                torch.cuda.current_stream(device).synchronize()
            _MATRICES[key] = found
    return found


def _made(
    flat: tuple[float, ...], dtype: torch.dtype, students: int, teachers: int, samples: int, device: torch.device
) -> Tensor:
    with torch.inference_mode(False):  # no later backward could keep its tensors
        if not flat:
            return _matrix(None, students, teachers, samples, torch.float32, device)
        weights = torch.tensor(flat, dtype=dtype).view(students, teachers)
        return sent(_matrix(weights, students, teachers, samples, torch.float32, weights.device), device)


def mix_teachers_(probabilities: Tensor, pairs: PairWeights) -> Tensor:
    """[T, n, K] -> the rows that the students need: [1, n, K] in place where they share one mixture, else as it is."""
    if not pairs.shared:
        return probabilities
    mixture = probabilities[0].mul_(pairs.matrix[0, 0])
    for weight, other in zip(pairs.matrix[0, 1:], probabilities[1:], strict=True):
        mixture.addcmul_(other, weight)
    return probabilities[:1]
