"""Make a chat model of half a billion parameters with random weights: nonsense to read, and real to decode.

    python benchmarks/engine/half_billion/build.py [DIRECTORY] [--seed N] [--threads N]

Needs what ``requirements.txt`` names. Writes 330 MB in some seconds; the same seed gives the same files. The README says
what is real about it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from itertools import islice, product
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "demo_model")]

from benchmarks.engine.half_billion.graph import Graph  # noqa: E402 - found by the line above
from benchmarks.engine.half_billion.shape import NAME, Shape, default_directory  # noqa: E402 - as above
from benchmarks.engine.half_billion.weights import WeightFile  # noqa: E402 - as above
from demo_recipe.chat_format import CHAT_TEMPLATE  # noqa: E402 - as above

DEMO_MODEL = ROOT / "src" / "fastapi_foundry" / "demo_model"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def build(directory: Path, seed: int, shape: Shape, threads: int) -> None:
    """Write the model's files; the one that makes the directory a model comes last."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "genai_config.json").unlink(missing_ok=True)
    with WeightFile(directory / "model.onnx.data", seed) as weights:
        onnx.save(Graph(shape, weights).model(), directory / "model.onnx")
    _write(directory / "tokenizer.json", tokenizer(shape))
    settings = _demo("tokenizer_config.json") | {"model_max_length": shape.context}
    _write(directory / "tokenizer_config.json", settings)
    _write(directory / "inference_model.json", _demo("inference_model.json") | {"Name": NAME})
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    _write(directory / "genai_config.json", genai_config(shape, threads))


def genai_config(shape: Shape, threads: int) -> dict[str, Any]:
    """The demo model's, with other sizes."""
    config = _demo("genai_config.json")
    config["model"] |= {"context_length": shape.context, "vocab_size": shape.vocabulary}
    config["model"]["decoder"] |= {
        "head_size": shape.head,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
    }
    if threads:
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    config["search"]["max_length"] = shape.context
    return config


def tokenizer(shape: Shape) -> dict[str, Any]:
    """The demo model's, and made-up words that only an answer has, up to the size of the vocabulary."""
    document = _demo("tokenizer.json")
    vocabulary = document["model"]["vocab"]
    known = len(vocabulary) + len(document["added_tokens"])
    if known != shape.silent:
        raise ValueError(f"the demo model's tokenizer has {known} tokens, not {shape.silent}")
    words = ("Ġ" + "".join(letters) for size in (4, 5) for letters in product(LETTERS, repeat=size))
    new = (word for word in words if word not in vocabulary)
    vocabulary |= {word: number for number, word in enumerate(islice(new, shape.vocabulary - known), known)}
    return document


def _demo(name: str) -> dict[str, Any]:
    return dict(json.loads((DEMO_MODEL / name).read_text(encoding="utf-8")))


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Build it and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", default=default_directory())
    parser.add_argument("--seed", type=int, default=9696)
    parser.add_argument("--threads", type=int, default=0, help="that the engine computes with; 0 leaves that to it")
    options = parser.parse_args()
    directory, shape, began = options.directory.resolve(), Shape(), time.perf_counter()
    build(directory, options.seed, shape, options.threads)
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(
        f"{directory}: {shape.parameters / 1e6:.0f} million parameters, {size / 1e6:.0f} MB, "
        f"{time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
