"""Starting weights that already hold a copying circuit.

A network of this size learns to copy from its context only after millions of tokens when
it starts from noise. The circuit that it finds is known (an *induction head*: one head
brings each position the token before it, a later head looks for the place whose previous
token is the current one, and copies what stands there), so it is laid out here and the
training only has to refine it. No trained weight is used; all of it is arithmetic.

* Layer 0, heads 0 to 2 attend 1, 2 and 3 tokens back. Rotary positions make the score of
  two constant vectors (the biases of q and k) a function of their distance alone; the
  phases put its peak at the wanted distance.
* Layers 1 and 2 hold matching heads: q reads the current token, k reads what a layer 0
  head wrote, so that they meet where the tokens agree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from demo_recipe.network import Attention, DemoNetwork, Shape

EMBEDDING_DEVIATION = 0.05


def prepare(network: DemoNetwork, generator: torch.Generator) -> None:
    """Fill all weights in place."""
    shape = network.shape
    _fill_with_noise(network, generator)
    shifted = {
        back: _orthogonal(shape.head_size, shape.hidden, generator) for back in (1, 2, 3)
    }
    written = {
        back: _orthogonal(shape.head_size, shape.hidden, generator) for back in (1, 2, 3)
    }
    first = network.layers[0].self_attn
    for head, back in enumerate((1, 2, 3)):
        _look_back(first, shape, head, back)
        _set_rows(first.v_proj.weight, shape, head, shifted[back])
        _set_columns(first.o_proj.weight, shape, head, written[back])
    for layer in (1, 2):
        _match(network.layers[layer].self_attn, shape, 0, shifted[1], written[1], generator)
        _match(network.layers[layer].self_attn, shape, 1, shifted[2], written[2], generator)


@torch.no_grad()
def _fill_with_noise(network: DemoNetwork, generator: torch.Generator) -> None:
    depth_scale = 1.0 / math.sqrt(2 * network.shape.layers)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        elif name.startswith("embed"):
            parameter.normal_(0.0, EMBEDDING_DEVIATION, generator=generator)
        else:
            deviation = 1.0 / math.sqrt(parameter.shape[1])
            if "o_proj" in name or "down_proj" in name:
                deviation *= depth_scale
            parameter.normal_(0.0, deviation * 0.6, generator=generator)


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A matrix (rows, columns) with orthonormal rows."""
    square = torch.randn(columns, columns, generator=generator)
    return torch.linalg.qr(square).Q[:rows]


def _span(shape: Shape, head: int) -> slice:
    return slice(head * shape.head_size, (head + 1) * shape.head_size)


@torch.no_grad()
def _set_rows(weight: torch.nn.Parameter, shape: Shape, head: int, value: Tensor) -> None:
    weight[_span(shape, head)] = value


@torch.no_grad()
def _set_columns(weight: torch.nn.Parameter, shape: Shape, head: int, value: Tensor) -> None:
    weight[:, _span(shape, head)] = value.T * 0.5


@torch.no_grad()
def _look_back(attention: Attention, shape: Shape, head: int, back: int) -> None:
    """Make ``head`` attend ``back`` tokens before the current one."""
    half = shape.head_size // 2
    frequencies = shape.rope_theta ** (-torch.arange(half) / half)
    strength = 2.2
    span = _span(shape, head)
    attention.q_proj.weight[span] *= 0.05
    attention.k_proj.weight[span] *= 0.05
    attention.k_proj.bias[span] = torch.cat([torch.full((half,), strength), torch.zeros(half)])
    angle = -frequencies * back
    attention.q_proj.bias[span] = torch.cat([angle.cos(), angle.sin()]) * strength


@torch.no_grad()
def _match(
    attention: Attention,
    shape: Shape,
    head: int,
    shifted: Tensor,
    written: Tensor,
    generator: torch.Generator,
) -> None:
    """Make ``head`` attend where the token ``back`` places earlier equals the current one."""
    span = _span(shape, head)
    # Key: what the look-back head wrote (written.T @ shifted @ embedding) -> shifted @ embedding.
    attention.k_proj.weight[span] = written * 1.5
    attention.q_proj.weight[span] = shifted * 1.5
    copied = _orthogonal(shape.head_size, shape.hidden, generator)
    attention.v_proj.weight[span] = copied
    attention.o_proj.weight[:, span] = copied.T * 0.7
