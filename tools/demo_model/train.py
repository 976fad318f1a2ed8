"""Train the demonstration model from scratch on the CPU; see README.md."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from demo_recipe.batches import Batch, Example, batches, encode
from demo_recipe.chat_format import END_OF_TEXT, render
from demo_recipe.data.mixture import conversation
from demo_recipe.network import DemoNetwork, Shape
from demo_recipe.starting_weights import prepare
from demo_recipe.tokenizer import save_tokenizer, train_tokenizer

TOKENIZER_CONVERSATIONS = 12_000


def corpus(seed: int, count: int) -> Iterator[str]:
    """Rendered conversations for the tokenizer."""
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(piece.text for piece in render(conversation(rng)))


def examples(tokenizer: Tokenizer, seed: int, longest: int) -> Iterator[Example]:
    """An endless stream of training examples of at most ``longest`` tokens."""
    rng = random.Random(seed)
    while True:
        example = encode(conversation(rng), tokenizer)
        if len(example.tokens) <= longest:
            yield example


def loss_of(network: DemoNetwork, batch: Batch) -> torch.Tensor:
    """Weighted mean cross-entropy, computed only where the weight is not 0."""
    hidden = network.hidden_states(batch.tokens)
    chosen = batch.weights > 0
    logits = network.logits(hidden[chosen])
    losses = functional.cross_entropy(logits, batch.targets[chosen], reduction="none")
    weights = batch.weights[chosen]
    return (losses * weights).sum() / weights.sum()


def main() -> None:
    """Make the tokenizer, train for the given CPU time, write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--cpu-seconds", type=float, default=7000.0)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=9696)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(options.seed)
    work: Path = options.work_dir
    checkpoint = work / "checkpoint"
    shape = Shape(vocabulary=options.vocabulary)
    tokenizer = train_tokenizer(corpus(options.seed, TOKENIZER_CONVERSATIONS), shape.vocabulary)
    save_tokenizer(tokenizer, checkpoint, shape.context)
    network = DemoNetwork(shape)
    prepare(network, torch.Generator().manual_seed(options.seed))
    print("parameters", sum(p.numel() for p in network.parameters()), "vocab", tokenizer.get_vocab_size(), flush=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, foreach=True)
    stream = batches(
        examples(tokenizer, options.seed + 1, 512),
        random.Random(options.seed + 2),
        batch_tokens=options.batch_tokens,
        padding=tokenizer.token_to_id(END_OF_TEXT),
        prompt_weight=0.1,
    )
    begin_cpu, begin = time.process_time(), time.monotonic()
    seen = step = 0
    recent = 0.0
    while (used := (time.process_time() - begin_cpu) / options.cpu_seconds) < 1.0:
        batch = next(stream)
        rate = options.learning_rate * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * used)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(network, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        seen += batch.real_tokens
        recent = loss.item() if step == 1 else 0.95 * recent + 0.05 * loss.item()
        if step % 20 == 0:
            wall = time.monotonic() - begin
            print(f"step {step} loss {recent:.4f} tokens {seen} wall {wall:.0f}s cpu {time.process_time()-begin_cpu:.0f}s {seen/wall:.0f} tok/s", flush=True)
    import safetensors.torch
    safetensors.torch.save_file(network.hugging_face_state(), checkpoint / "model.safetensors", metadata={"format": "pt"})
    ids = [tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id("<|im_end|>")]
    (checkpoint / "config.json").write_text(json.dumps(shape.hugging_face_config(*ids), indent=1))


if __name__ == "__main__":
    main()
