"""The weights of student-teacher pairs, in the form both distillation ops use."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
        matrix = pair_matrix(weights, student, teacher, like)
        alike = (
            weights is None
            or (
                not torch.compiler.is_compiling()  # a graph has no values to look at
                and torch.equal(matrix, matrix[:1].expand_as(matrix))
            )
        )
        return cls(matrix, matrix.sum(1), alike)


def pair_matrix(weights: Tensor | None, student: Tensor, teacher: Tensor, like: Tensor) -> Tensor:
    """Pair weights [S, T] over their sum and the number of samples, for student [S, N, ...] and teacher [T, N, ...].

    None: all pairs alike. Dtype and device of `like`.
    """
    students, teachers, samples = student.shape[0], teacher.shape[0], student.shape[1]
    if weights is None:
        return like.new_full((students, teachers), 1 / (students * teachers * samples))
    wide = weights.detach().to(torch.promote_types(weights.dtype, like.dtype))
    # The largest becomes 1 before they are summed: weights of any size neither overflow nor vanish.
    matrix = (wide / wide.amax()).to(like.device, like.dtype)
    return matrix / (matrix.sum() * samples)


def mix_teachers_(probabilities: Tensor, pairs: PairWeights) -> Tensor:
    """[T, n, K] -> the rows that the students need: [1, n, K] in place where they share one mixture, else as it is."""
    if not pairs.shared:
        return probabilities
    mixture = probabilities[0].mul_(pairs.matrix[0, 0])
    for weight, other in zip(pairs.matrix[0, 1:], probabilities[1:], strict=True):
        mixture.addcmul_(other, weight)
    return probabilities[:1]
