"""How often the network would answer held-back prompts exactly, measured in training.

All learned tokens being the likeliest ones, with the right answer fed in, is the same as
a greedy answer being exactly right; so one forward pass measures it without generating.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from demo_recipe.batches import Batch, Example, encode, to_batch
from demo_recipe.chat_format import END_OF_TEXT, Conversation, Message
from demo_recipe.data.context_questions import ContextQuestions
from demo_recipe.data.greetings import SMALL_TALK
from demo_recipe.data.product_facts import FACTS
from demo_recipe.data.tool_calls import ToolCalls
from demo_recipe.network import DemoNetwork
from demo_recipe.tokenizer import token_id


@dataclass(frozen=True)
class Probe:
    """Held-back conversations of one skill as batches."""

    name: str
    batches: tuple[Batch, ...]


def held_back_probes(tokenizer: Tokenizer, size: int) -> list[Probe]:
    """Probes of ``size`` conversations each (product and small talk: all there are)."""
    rng = random.Random(1)
    context, tools = ContextQuestions(rng, held_back=True), ToolCalls(rng, held_back=True)
    sets = {
        "quote": [context.layout(context.task(rng.randint(1, 5), absent=False)) for _ in range(size)],
        "absent": [context.layout(context.task(rng.randint(1, 5), absent=True)) for _ in range(size)],
        "tool": [_first_call(tools, rng) for _ in range(size)],
        "product": [_pair(q, f.answer) for f in FACTS for q in f.held_back],
        "talk": [_pair(q, t.answer) for t in SMALL_TALK for q in t.held_back],
    }
    padding = token_id(tokenizer, END_OF_TEXT)
    return [
        Probe(name, tuple(_batches([encode(c, tokenizer) for c in items], padding))) for name, items in sets.items()
    ]


def exact_rate(network: DemoNetwork, probe: Probe) -> float:
    """Share of the probe's conversations whose learned tokens are all the likeliest."""
    right = total = 0
    with torch.no_grad():
        for batch in probe.batches:
            best = network.logits(network.hidden_states(batch.tokens)).argmax(-1)
            wrong = (best != batch.targets) & (batch.weights > 0)
            right += int((~wrong.any(dim=1)).sum())
            total += len(batch.tokens)
    return right / total


def _batches(examples: list[Example], padding: int) -> list[Batch]:
    ordered = sorted(examples, key=lambda example: len(example.tokens))
    return [to_batch(ordered[i : i + 16], padding, 0.0) for i in range(0, len(ordered), 16)]


def _pair(user: str, answer: str) -> Conversation:
    return Conversation((Message("user", user), Message("assistant", answer)))


def _first_call(tools: ToolCalls, rng: random.Random) -> Conversation:
    task = tools.task(rng.randint(1, 4))
    turns = (Message("user", task.user), Message("assistant", "", (task.call,)))
    return Conversation(turns, task.tools)
