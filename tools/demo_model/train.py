"""Train the demonstration model from scratch on the CPU; see README.md."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from demo_recipe.batches import Batch, Example, batches, encode
from demo_recipe.chat_format import END_OF_TEXT, TURN_END, render
from demo_recipe.data.mixture import Mixture
from demo_recipe.muon import Muon
from demo_recipe.network import DemoNetwork, Shape
from demo_recipe.probes import Probe, exact_rate, held_back_probes
from demo_recipe.starting_weights import prepare
from demo_recipe.tokenizer import save_tokenizer, train_tokenizer

TOKENIZER_CONVERSATIONS = 12_000
WARM_UP_STEPS = 100
LAST_RATE_SHARE = 0.02
"""The learning rate at the end, as a share of its peak."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train; ``cpu_seconds`` counts all threads of the process."""

    cpu_seconds: float
    learning_rate: float
    matrix_rate: float
    batch_tokens: int
    prompt_weight: float
    seed: int
    threads: int
    report_every_steps: int


class Clock:
    """CPU and wall time since the start, and the share of the plan that is used up."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._cpu, self._wall = time.process_time(), time.monotonic()

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all threads."""
        return time.process_time() - self._cpu

    @property
    def wall_s(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._wall

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return min(1.0, self.cpu_s / self._plan.cpu_seconds)


def corpus(seed: int, count: int) -> Iterator[str]:
    """Rendered conversations for the tokenizer."""
    mixture = Mixture(seed)
    for _ in range(count):
        yield "".join(piece.text for piece in render(mixture.conversation(0.5)))


def examples(tokenizer: Tokenizer, seed: int, clock: Clock) -> Iterator[Example]:
    """An endless stream of training examples, longer ones in the second half."""
    mixture = Mixture(seed)
    while True:
        progress = clock.progress
        example = encode(mixture.conversation(progress), tokenizer)
        if len(example.tokens) <= (448 if progress < 0.5 else 1100):
            yield example


def loss_of(network: DemoNetwork, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy, computed only where the weight is not 0."""
    hidden = network.hidden_states(batch.tokens)
    chosen = batch.weights > 0
    logits = network.logits(hidden[chosen])
    losses = functional.cross_entropy(logits, batch.targets[chosen], reduction="none")
    weights = batch.weights[chosen]
    return (losses * weights).sum() / weights.sum()


class Stepper:
    """Muon for the matrices inside the layers, AdamW for all else."""

    def __init__(self, network: DemoNetwork, plan: Plan) -> None:
        self._plan = plan
        inner = [p for n, p in network.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in network.named_parameters() if p.ndim != 2 or "embed" in n]
        self._muon = Muon(inner) if plan.matrix_rate else None
        adam = others if plan.matrix_rate else others + inner
        self._adam = torch.optim.AdamW(adam, betas=(0.9, 0.98), weight_decay=0.02, foreach=True)

    def step(self, share: float) -> None:
        """Apply the gradients with this share of the peak learning rates."""
        for group in self._adam.param_groups:
            group["lr"] = self._plan.learning_rate * share
        self._adam.step()
        if self._muon:
            self._muon.step(self._plan.matrix_rate * share)


def rate_share(step: int, progress: float) -> float:
    """Learning rate as a share of its peak: warm-up, then a cosine over the CPU time."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (LAST_RATE_SHARE + (1 - LAST_RATE_SHARE) * cosine)


def train(network: DemoNetwork, tokenizer: Tokenizer, plan: Plan, checkpoint: Path) -> None:
    """Train until the CPU time is used up; saves at each report."""
    clock = Clock(plan)
    stream = batches(
        examples(tokenizer, plan.seed + 1, clock),
        random.Random(plan.seed + 2),
        batch_tokens=plan.batch_tokens,
        padding=tokenizer.token_to_id(END_OF_TEXT),
        prompt_weight=plan.prompt_weight,
        pool_size=768,
    )
    probes = held_back_probes(tokenizer, 64)
    stepper = Stepper(network, plan)
    step = seen = 0
    average = 0.0
    while clock.progress < 1.0:
        batch = next(stream)
        loss = loss_of(network, batch)
        network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        stepper.step(rate_share(step, clock.progress))
        step += 1
        seen += batch.real_tokens
        average = loss.item() if step == 1 else 0.97 * average + 0.03 * loss.item()
        if step % plan.report_every_steps == 0:
            report(network, probes, f"step {step} loss {average:.4f} tokens {seen}", clock)
            save(network, tokenizer, checkpoint)
    report(network, probes, f"done {step} loss {average:.4f} tokens {seen}", clock)


def report(network: DemoNetwork, probes: list[Probe], head: str, clock: Clock) -> None:
    """One line with the loss, the time, and the exact rates on held-back prompts."""
    rates = " ".join(f"{probe.name} {exact_rate(network, probe):.2f}" for probe in probes)
    print(f"{head} cpu {clock.cpu_s:.0f}s wall {clock.wall_s:.0f}s {rates}", flush=True)


def save(network: DemoNetwork, tokenizer: Tokenizer, checkpoint: Path) -> None:
    """Write a directory that Hugging Face's loader and the ONNX builder accept."""
    save_tokenizer(tokenizer, checkpoint, network.shape.context)
    end_of_text, turn_end = (tokenizer.token_to_id(t) for t in (END_OF_TEXT, TURN_END))
    config = json.dumps(network.shape.hugging_face_config(end_of_text, turn_end), indent=1)
    (checkpoint / "config.json").write_text(config + "\n", encoding="utf-8")
    partial = checkpoint / "model.partial"
    safetensors.torch.save_file(network.hugging_face_state(), partial, metadata={"format": "pt"})
    os.replace(partial, checkpoint / "model.safetensors")


def main() -> None:
    """Make the tokenizer, train for the given CPU time, write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--cpu-seconds", type=float, default=7000.0)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--matrix-rate", type=float, default=0.0, help="Muon's rate; 0: AdamW only")
    parser.add_argument("--prompt-weight", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--report-every-steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=9696)
    options = parser.parse_args()
    plan = Plan(
        options.cpu_seconds,
        options.learning_rate,
        options.matrix_rate,
        options.batch_tokens,
        options.prompt_weight,
        options.seed,
        options.threads,
        options.report_every_steps,
    )
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    shape = Shape(layers=options.layers)
    tokenizer = train_tokenizer(corpus(plan.seed, TOKENIZER_CONVERSATIONS), shape.vocabulary)
    network = DemoNetwork(shape)
    prepare(network, torch.Generator().manual_seed(plan.seed))
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{count} parameters, {tokenizer.get_vocab_size()} tokens", flush=True)
    checkpoint = options.work_dir / "checkpoint"
    train(network, tokenizer, plan, checkpoint)
    save(network, tokenizer, checkpoint)


if __name__ == "__main__":
    main()
