"""Tokenised examples and batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo_recipe.chat_format import Conversation, render


@dataclass(frozen=True)
class Example:
    """One conversation as token ids, with 1 where the token is the model's own."""

    tokens: list[int]
    learned: list[int]


@dataclass(frozen=True)
class Batch:
    """Right-padded rows; ``weights`` belongs to the token that each position predicts."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    real_tokens: int


def encode(conversation: Conversation, tokenizer: Tokenizer) -> Example:
    """Token ids of the rendered conversation, piece by piece as the engine does it."""
    tokens: list[int] = []
    learned: list[int] = []
    for piece in render(conversation):
        ids = tokenizer.encode(piece.text, add_special_tokens=False).ids
        tokens += ids
        learned += [int(piece.learned)] * len(ids)
    return Example(tokens, learned)


PROMPT_SHARE = 0.3
"""Share of the prompt's tokens that the loss looks at; they cost time and teach little."""


def to_batch(examples: list[Example], padding: int, prompt_weight: float) -> Batch:
    """Pad to the longest example."""
    draw = np.random.default_rng(len(examples))
    length = max(len(example.tokens) for example in examples)
    tokens = np.full((len(examples), length), padding, dtype=np.int64)
    weights = np.zeros((len(examples), length), dtype=np.float32)
    for row, example in enumerate(examples):
        size = len(example.tokens)
        tokens[row, :size] = example.tokens
        learned = np.asarray(example.learned, dtype=np.float32)
        looked_at = draw.random(size) < PROMPT_SHARE
        weights[row, :size] = learned + (1.0 - learned) * prompt_weight * looked_at
    return Batch(
        tokens=torch.from_numpy(tokens[:, :-1].copy()),
        targets=torch.from_numpy(tokens[:, 1:].copy()),
        weights=torch.from_numpy(weights[:, 1:].copy()),
        real_tokens=sum(len(example.tokens) for example in examples),
    )


def batches(
    examples: Iterator[Example],
    rng: random.Random,
    *,
    batch_tokens: Callable[[], int],
    padding: int,
    prompt_weight: float,
    pool_size: int = 2048,
) -> Iterator[Batch]:
    """Batches of about ``batch_tokens()`` tokens, each of examples of similar length."""
    while True:
        pool = sorted((next(examples) for _ in range(pool_size)), key=lambda e: len(e.tokens))
        largest = batch_tokens()
        groups: list[list[Example]] = [[]]
        for example in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(example.tokens) > largest:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            yield to_batch(group, padding, prompt_weight)
