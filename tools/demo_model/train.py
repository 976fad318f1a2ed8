"""Train the demonstration model from scratch on the CPU; see README.md."""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from demo_recipe.batches import Batch, Example, batches, encode
from demo_recipe.chat_format import END_OF_TEXT, TURN_END, render
from demo_recipe.data.mixture import Mixture
from demo_recipe.network import DemoNetwork, Shape
from demo_recipe.probes import Probe, exact_rate, held_back_probes
from demo_recipe.starting_weights import prepare
from demo_recipe.tokenizer import save_tokenizer, token_id, train_tokenizer
from tokenizers import Tokenizer
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

TOKENIZER_CONVERSATIONS = 12_000
WARM_UP_STEPS = 100
RESUMED_FROM = 0.3
LAST_RATE_SHARE = 0.02
"""The learning rate at the end, as a share of its peak."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    ``cpu_seconds`` is the sum over all workers, ``batch_tokens`` is for each of them and the largest, see ``batch_share``.
    """

    cpu_seconds: float
    wall_seconds: float
    learning_rate: float
    batch_tokens: int
    prompt_weight: float
    seed: int
    workers: int
    report_every_steps: int
    resumed: bool


class Clock:
    """CPU time of all workers, wall time, and the share of the plan that is used up.

    ``progress`` runs from 0 to 1 and is the same in all workers between two steps.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._own_cpu, self._wall = time.process_time(), time.monotonic()
        self.cpu_s = 0.0
        self.progress = 0.0

    @property
    def own_cpu_s(self) -> float:
        """CPU seconds of this worker."""
        return time.process_time() - self._own_cpu

    @property
    def curriculum(self) -> float:
        """The progress as far as the data is concerned: a resumed training skips the easy part."""
        first = RESUMED_FROM if self._plan.resumed else 0.0
        return first + (1.0 - first) * self.progress

    @property
    def wall_s(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._wall

    def agree(self, cpu_s: float, wall_s: float) -> None:
        """Set what all workers agreed on: CPU seconds of all, mean wall seconds."""
        self.cpu_s = cpu_s
        shares = (cpu_s / self._plan.cpu_seconds, wall_s / self._plan.wall_seconds)
        self.progress = min(1.0, max(shares))


def corpus(seed: int, count: int) -> Iterator[str]:
    """Rendered conversations for the tokenizer."""
    mixture = Mixture(seed)
    for _ in range(count):
        yield "".join(piece.text for piece in render(mixture.conversation(0.5)))


def examples(tokenizer: Tokenizer, seed: int, clock: Clock) -> Iterator[Example]:
    """An endless stream of training examples, longer ones in the second half."""
    mixture = Mixture(seed)
    while True:
        progress = clock.curriculum
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


def rate_share(step: int, progress: float) -> float:
    """Learning rate as a share of its peak: warm-up, then a cosine over the CPU time."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (LAST_RATE_SHARE + (1 - LAST_RATE_SHARE) * cosine)


def batch_share(progress: float) -> float:
    """Batch size as a share of the largest: many small steps first, steadier ones later."""
    return 0.5 if progress < 0.35 else 0.75 if progress < 0.65 else 1.0


def average_gradients(network: DemoNetwork, clock: Clock, workers: int) -> None:
    """Replace the gradients by their mean over the workers, and add up the CPU times.

    Two workers of one thread each waste less than two threads: they meet once a step and
    wait asleep, where threads meet at every operation and spin.
    """
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    joined = torch.cat([g.flatten() for g in gradients] + [torch.tensor([clock.own_cpu_s, clock.wall_s])])
    distributed.all_reduce(joined)
    clock.agree(joined[-2].item(), joined[-1].item() / workers)
    joined /= workers
    start = 0
    for gradient in gradients:
        gradient.copy_(joined[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def train(network: DemoNetwork, tokenizer: Tokenizer, plan: Plan, checkpoint: Path, worker: int) -> None:
    """Train until the CPU time is used up; worker 0 reports and saves."""
    clock = Clock(plan)
    stream = batches(
        examples(tokenizer, plan.seed + 1 + worker + 1000 * plan.resumed, clock),
        random.Random(plan.seed + 100 + worker),
        batch_tokens=lambda: int(plan.batch_tokens * batch_share(clock.curriculum)),
        padding=token_id(tokenizer, END_OF_TEXT),
        prompt_weight=plan.prompt_weight,
        pool_size=256,
    )
    probes = held_back_probes(tokenizer, 48) if worker == 0 else []
    adam = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.98), weight_decay=0.03, foreach=True)
    step = seen = 0
    average = 0.0
    while clock.progress < 1.0:
        batch = next(stream)
        for group in adam.param_groups:
            group["lr"] = plan.learning_rate * rate_share(step, clock.progress)
        loss = loss_of(network, batch)
        network.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(network, clock, plan.workers)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        step += 1
        seen += batch.real_tokens * plan.workers
        average = loss.item() if step == 1 else 0.97 * average + 0.03 * loss.item()
        if worker == 0 and step % plan.report_every_steps == 0:
            report(network, probes, f"step {step} loss {average:.4f} tokens {seen}", clock)
            save(network, tokenizer, checkpoint)
    if worker == 0:
        report(network, probes, f"done {step} loss {average:.4f} tokens {seen}", clock)
        save(network, tokenizer, checkpoint)


def run_worker(worker: int, plan: Plan, work_dir: Path, meeting_point: str) -> None:
    """One of the training processes: all start from the same weights on their own data."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{meeting_point}", rank=worker, world_size=plan.workers)
    tokenizer = Tokenizer.from_file(str(work_dir / "checkpoint" / "tokenizer.json"))
    network = DemoNetwork(Shape())
    if plan.resumed:
        network.load_hugging_face_state(safetensors.torch.load_file(work_dir / "checkpoint" / "model.safetensors"))
    else:
        prepare(network, torch.Generator().manual_seed(plan.seed))
    if worker == 0:
        print(f"{sum(p.numel() for p in network.parameters())} parameters", flush=True)
    train(network, tokenizer, plan, work_dir / "checkpoint", worker)
    distributed.destroy_process_group()


def report(network: DemoNetwork, probes: list[Probe], head: str, clock: Clock) -> None:
    """One line with the loss, the time, and the exact rates on held-back prompts."""
    rates = " ".join(f"{probe.name} {exact_rate(network, probe):.2f}" for probe in probes)
    print(f"{head} cpu {clock.cpu_s:.0f}s wall {clock.wall_s:.0f}s {rates}", flush=True)


def save(network: DemoNetwork, tokenizer: Tokenizer, checkpoint: Path) -> None:
    """Write a directory that Hugging Face's loader and the ONNX builder accept."""
    save_tokenizer(tokenizer, checkpoint, network.shape.context)
    end_of_text, turn_end = (token_id(tokenizer, t) for t in (END_OF_TEXT, TURN_END))
    config = json.dumps(network.shape.hugging_face_config(end_of_text, turn_end), indent=1)
    (checkpoint / "config.json").write_text(config + "\n", encoding="utf-8")
    partial = checkpoint / "model.partial"
    safetensors.torch.save_file(network.hugging_face_state(), partial, metadata={"format": "pt"})
    partial.replace(checkpoint / "model.safetensors")


def main() -> None:
    """Make the tokenizer, train for the given CPU time, write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--cpu-seconds", type=float, default=7000.0)
    parser.add_argument("--wall-seconds", type=float, default=3600.0, help="whichever is used up first")
    parser.add_argument("--batch-tokens", type=int, default=1536)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--prompt-weight", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report-every-steps", type=int, default=200)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint, with a new learning rate cycle"
    )
    parser.add_argument("--seed", type=int, default=9696)
    options = parser.parse_args()
    plan = Plan(
        options.cpu_seconds,
        options.wall_seconds,
        options.learning_rate,
        options.batch_tokens,
        options.prompt_weight,
        options.seed,
        options.workers,
        options.report_every_steps,
        options.resume,
    )
    work_dir: Path = options.work_dir.resolve()
    if not plan.resumed:
        tokenizer = train_tokenizer(corpus(plan.seed, TOKENIZER_CONVERSATIONS), Shape.vocabulary)
        save_tokenizer(tokenizer, work_dir / "checkpoint", Shape.context)
    with tempfile.TemporaryDirectory() as scratch:
        meeting_point = str(Path(scratch) / "workers")
        spawn(run_worker, (plan, work_dir, meeting_point), nprocs=plan.workers)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
