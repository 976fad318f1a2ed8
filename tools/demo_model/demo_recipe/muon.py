"""The Muon optimizer for weight matrices, in float32 for a CPU.

The momentum of each matrix is made orthogonal with a Newton-Schulz iteration before it is
applied (K. Jordan and others, 2024, "Muon: an optimizer for hidden layers"). PyTorch has
it too, but computes in bfloat16, which a CPU without that type does very slowly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon:
    """Momentum, orthogonalised; matrices of one shape are handled together."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], *, momentum: float = 0.95, decay: float = 0.05) -> None:
        self.momentum, self.decay = momentum, decay
        self._groups: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            self._groups[matrix.shape].append(matrix)
        self._speed = {shape: torch.zeros(len(group), *shape) for shape, group in self._groups.items()}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Apply one update; ``rate`` is on AdamW's scale (the update's RMS is 0.2 of it)."""
        for shape, group in self._groups.items():
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            speed = self._speed[shape].lerp_(gradient, 1 - self.momentum)
            update = orthogonal(gradient.lerp_(speed, self.momentum))
            scale = 0.2 * max(shape) ** 0.5 * rate
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - rate * self.decay).sub_(change, alpha=scale)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices to (count, rows, columns), approximately."""
    tall = matrices.shape[1] > matrices.shape[2]
    state = matrices.transpose(1, 2) if tall else matrices
    state = state / (state.norm(dim=(1, 2), keepdim=True) + 1e-7)
    first, second, third = _QUINTIC
    for _ in range(_ITERATIONS):
        square = state @ state.transpose(1, 2)
        mixed = torch.baddbmm(square, square, square, beta=second, alpha=third)
        state = torch.baddbmm(state, mixed, state, beta=first)
    return state.transpose(1, 2) if tall else state
