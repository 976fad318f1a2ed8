"""Turn the trained checkpoint into the shipped ONNX model; see README.md.

Runs ``onnxruntime_genai.models.builder`` with int8 weights, adds ``inference_model.json``,
checks the result, and replaces the shipped directory.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime_genai  # type: ignore[import-untyped]
from demo_recipe.chat_format import CHAT_TEMPLATE, TURN_END, TURN_START, Conversation, render
from demo_recipe.data.mixture import Mixture

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "fastapi_foundry" / "demo_model"
MOST_BYTES = 8_000_000
DEFAULT_TEMPERATURE = 0.1
INFERENCE_MODEL = {
    "Name": "foundry-demo",
    "PromptTemplate": {
        "system": f"{TURN_START}system\n{{Content}}{TURN_END}\n",
        "user": f"{TURN_START}user\n{{Content}}{TURN_END}\n",
        "assistant": f"{TURN_START}assistant\n{{Content}}{TURN_END}\n",
        "prompt": f"{TURN_START}user\n{{Content}}{TURN_END}\n{TURN_START}assistant\n",
    },
}


def build(checkpoint: Path, output: Path, precision: str, cache: Path) -> None:
    """Run the builder and complete its output."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    command += ["-m", str(checkpoint), "-o", str(output), "-p", precision, "-e", "cpu", "-c", str(cache)]
    subprocess.run(command, check=True)  # noqa: S603 - our own interpreter and arguments
    (output / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    text = json.dumps(INFERENCE_MODEL, indent=1)
    (output / "inference_model.json").write_text(text + "\n", encoding="utf-8")
    set_default_temperature(output / "genai_config.json")


def set_default_temperature(config: Path) -> None:
    """Let a request without a temperature get nearly the likeliest answer: the engine samples, from 1.0 by default."""
    document = json.loads(config.read_text(encoding="utf-8"))
    document["search"]["temperature"] = DEFAULT_TEMPERATURE
    config.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")


def check_size(output: Path) -> int:
    """The size of all files in bytes.

    Raises:
        ValueError: The directory is larger than what may ship.
    """
    size = sum(path.stat().st_size for path in output.iterdir())
    if size > MOST_BYTES:
        raise ValueError(f"{size} bytes, more than {MOST_BYTES}")
    return size


def check_format(output: Path, count: int = 200) -> None:
    """Compare the engine's rendering of conversations without tools with the training's.

    Raises:
        ValueError: They differ.
    """
    tokenizer = onnxruntime_genai.Tokenizer(onnxruntime_genai.Model(str(output)))
    mixture = Mixture(random.Random(0).randint(0, 99))
    for _ in range(count):
        conversation = mixture.conversation(1.0)
        if conversation.tools:
            continue
        expected = "".join(piece.text for piece in render(conversation))
        messages = json.dumps(_openai(conversation))
        actual = tokenizer.apply_chat_template(messages, add_generation_prompt=False)
        if actual != expected:
            raise ValueError(f"the chat template gives {actual!r}, the training {expected!r}")


def _openai(conversation: Conversation) -> list[dict[str, Any]]:
    return [{"role": m.role, "content": m.content} for m in conversation.messages]


def install(output: Path, shipped: Path) -> None:
    """Replace the shipped directory by the new one."""
    fresh, old = shipped.with_name(".demo_model.new"), shipped.with_name(".demo_model.old")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(output, fresh)
    for kept in shipped.glob("*.py"):
        shutil.copy2(kept, fresh)
    shipped.rename(old)
    fresh.rename(shipped)
    shutil.rmtree(old)


def main() -> None:
    """Build, check, and install where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/demo_model"))
    parser.add_argument("--precision", choices=("int4", "int8"), default="int8")
    parser.add_argument("--install", action="store_true", help="replace the shipped model")
    options = parser.parse_args()
    output = options.work_dir / f"onnx_{options.precision}"
    build(options.work_dir / "checkpoint", output, options.precision, options.work_dir / "cache")
    check_format(output)
    print(f"{output}: {check_size(output)} bytes")
    if options.install:
        install(output, SHIPPED)


if __name__ == "__main__":
    main()
