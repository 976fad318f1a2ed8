"""Starting weights that already hold a copying circuit.

A network of this size learns to copy from its context only after many millions of tokens
when it starts from noise. The circuit that it finds is known (an *induction head*: one
head brings each position the token before it, a later head looks for the place whose
previous token is the current one, and copies what stands there), so it is laid out here
and the training only has to refine it. No trained weight is used; all is arithmetic.

* The stream is split: embeddings start in its first :data:`EMBEDDED` components, and what
  the look-back heads write goes to the rest, so that neither disturbs the other.
* Layer 0, heads 0 and 1 attend 1 and 2 tokens back. Rotary positions make the score of two
  constant vectors (the biases of q and k) a function of their distance alone; the phases
  put its peak at the wanted distance.
* Layers 1 and 2, head 0 attends where the token before equals the current one, head 1
  where the two tokens before equal the current and the previous one; both copy.
"""

from __future__ import annotations

import math

import torch

from demo_recipe.network import Attention, DemoNetwork, Shape

EMBEDDING_DEVIATION = 0.05
LOOK_BACK_SCORE = 6.0
"""Size of the constant parts of q and k; 6 puts 0.95 of the attention on one token."""
EMBEDDED = 160
MATCHED = 40
"""Components of an embedding by which two tokens are compared; two times are written."""
SLOW_PAIR = 12
"""The rotary pairs from here on turn so slowly that a match survives 1,000 tokens."""
WRITTEN_SHARE = 0.04
MATCH_GAIN = 2.0
COPY_SHARE = 0.25


@torch.no_grad()
def prepare(network: DemoNetwork, generator: torch.Generator) -> None:
    """Fill all weights in place."""
    shape = network.shape
    _fill_with_noise(network, generator)
    network.embed_tokens.weight[:, EMBEDDED:] = 0.0
    first = network.attention(0)
    one_back = list(range(EMBEDDED, EMBEDDED + MATCHED))
    two_back = list(range(EMBEDDED + MATCHED, EMBEDDED + 2 * MATCHED))
    for head, written in enumerate((one_back, two_back)):
        _look_back(first, shape, head, head + 1)
        _carry(first, shape, head, list(range(MATCHED)), written, WRITTEN_SHARE)
    now = list(range(MATCHED))
    half = MATCHED // 2
    for layer, copied in ((1, 0), (2, 32)):
        attention = network.attention(layer)
        _match(attention, shape, 0, now, one_back)
        _match(attention, shape, 1, now[:half] + one_back[:half], one_back[:half] + two_back[:half])
        for head in (0, 1):
            source = list(range(copied + 64 * head, copied + 64 * (head + 1)))
            _carry(attention, shape, head, source, source, COPY_SHARE)


def _fill_with_noise(network: DemoNetwork, generator: torch.Generator) -> None:
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        elif name.startswith("embed"):
            parameter.normal_(0.0, EMBEDDING_DEVIATION, generator=generator)
        else:
            small = 0.05 if "o_proj" in name or "down_proj" in name else 0.6
            parameter.normal_(0.0, small / math.sqrt(parameter.shape[1]), generator=generator)


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


def _carry(attention: Attention, shape: Shape, head: int, source: list[int], target: list[int], share: float) -> None:
    """Make ``head`` carry components of the stream from where it looks, times ``share``."""
    start = head * shape.head_size
    attention.v_proj.weight[_span(shape, head)] *= 0.1
    for row, (read, written) in enumerate(zip(source, target, strict=True)):
        attention.v_proj.weight[start + row, read] = 1.0
        attention.o_proj.weight[written, start + row] = share


def _match(attention: Attention, shape: Shape, head: int, asked: list[int], offered: list[int]) -> None:
    """Make ``head`` attend where the ``offered`` components equal the ``asked`` ones here."""
    half = shape.head_size // 2
    rows = [*range(SLOW_PAIR, half), *range(half + SLOW_PAIR, shape.head_size)]
    span = _span(shape, head)
    attention.q_proj.weight[span] *= 0.1
    attention.k_proj.weight[span] *= 0.1
    for row, query, key in zip(rows, asked, offered, strict=True):
        attention.q_proj.weight[span.start + row, query] = MATCH_GAIN
        attention.k_proj.weight[span.start + row, key] = MATCH_GAIN
