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
LOOK_BACK_SCORE = 3.2
"""Size of the constant parts of q and k; 3.2 puts about 0.9 of the attention on one token."""
WRITTEN_SHARE = 0.07
"""What a look-back head writes, so that it is as large as an embedding."""
MATCH_GAIN = 2.2
COPY_SHARE = 0.4
SLOW_PAIRS = 14
"""Rotary pairs from this one on turn so slowly that a match survives some 200 tokens."""


@torch.no_grad()
def prepare(network: DemoNetwork, generator: torch.Generator) -> None:
    """Fill all weights in place."""
    shape = network.shape
    _fill_with_noise(network, generator)
    first = network.attention(0)
    read, written = {}, {}
    for head, back in enumerate((1, 2, 3)):
        read[back] = _orthogonal(shape.head_size, shape.hidden, generator)
        written[back] = _orthogonal(shape.head_size, shape.hidden, generator)
        span = _span(shape, head)
        _look_back(first, shape, head, back)
        first.v_proj.weight[span] = read[back]
        first.o_proj.weight[:, span] = written[back].T * WRITTEN_SHARE
    for layer in (1, 2):
        attention = network.attention(layer)
        for head, back in enumerate((1, 2)):
            _match(attention, shape, head, read[back], written[back])
            span = _span(shape, head)
            copied = _orthogonal(shape.head_size, shape.hidden, generator)
            attention.v_proj.weight[span] = copied
            attention.o_proj.weight[:, span] = copied.T * COPY_SHARE


def _fill_with_noise(network: DemoNetwork, generator: torch.Generator) -> None:
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        elif name.startswith("embed"):
            parameter.normal_(0.0, EMBEDDING_DEVIATION, generator=generator)
        else:
            small = 0.1 if "o_proj" in name or "down_proj" in name else 0.6
            parameter.normal_(0.0, small / math.sqrt(parameter.shape[1]), generator=generator)


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A matrix (rows, columns) with orthonormal rows."""
    square = torch.randn(columns, columns, generator=generator)
    rotation: Tensor = torch.linalg.qr(square).Q
    return rotation[:rows]


def _span(shape: Shape, head: int) -> slice:
    return slice(head * shape.head_size, (head + 1) * shape.head_size)


def _look_back(attention: Attention, shape: Shape, head: int, back: int) -> None:
    """Make ``head`` attend ``back`` tokens before the current one."""
    half = shape.head_size // 2
    frequencies = shape.rope_theta ** (-torch.arange(half) / half)
    span = _span(shape, head)
    attention.q_proj.weight[span] *= 0.05
    attention.k_proj.weight[span] *= 0.05
    ahead = torch.cat([torch.ones(half), torch.zeros(half)])
    turned = torch.cat([(frequencies * back).cos(), -(frequencies * back).sin()])
    attention.k_proj.bias[span] = ahead * LOOK_BACK_SCORE
    attention.q_proj.bias[span] = turned * LOOK_BACK_SCORE


def _match(attention: Attention, shape: Shape, head: int, read: Tensor, written: Tensor) -> None:
    """Make ``head`` attend where the token ``back`` places earlier equals the current one.

    ``read`` took that token's embedding and ``written`` put it into the stream, so a key
    that reads ``written`` meets a query that reads ``read``.
    """
    half = shape.head_size // 2
    slow = torch.zeros(shape.head_size)
    slow[SLOW_PAIRS:half] = MATCH_GAIN
    slow[half + SLOW_PAIRS :] = MATCH_GAIN
    span = _span(shape, head)
    attention.k_proj.weight[span] = written * slow[:, None]
    attention.q_proj.weight[span] = read * slow[:, None]
