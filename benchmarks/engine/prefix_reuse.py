"""What the engine does with a chat that goes on: is the prompt read again, and are the answers the same?

    python benchmarks/engine/prefix_reuse.py [--model DIRECTORY] [--conversations 20] [--turns 5]

Talks to Foundry Local in this process, which is denied the network first. Prints, for each way of handing over the
next turn, the median time to the first token of the later turns, and how many of their greedy answers are those of
the ordinary way; then the memory of an open session. ADR 0009 holds the figures that decided.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import psutil

import fastapi_foundry
from fastapi_foundry.daemon.offline_guard import deny_network

QUESTIONS = [
    "What are you?",
    "Which port does the gateway use?",
    "hello",
    "Who are you?",
    "What is the runner?",
    "Name something.",
    "What can you do?",
    "Is there a test?",
]
WORDS = ["gateway", "service", "runner", "model", "token", "port", "key", "limit", "queue", "stream", "answer", "thing"]


def main() -> None:
    """Measure and print."""
    arguments = _arguments()
    print(f"network: {deny_network()}")
    import foundry_local_sdk as engine  # noqa: PLC0415 - after the network is denied

    data = Path(tempfile.mkdtemp())
    try:
        Measurement(engine, arguments.model, data).run(arguments.conversations, arguments.turns)
    finally:
        shutil.rmtree(data, ignore_errors=True)


class Measurement:
    """One loaded model and the ways to ask it."""

    def __init__(self, engine: Any, path: Path, data: Path) -> None:
        self._engine = engine
        manager = engine.FoundryLocalManager(
            engine.Configuration(
                "prefix-reuse",
                app_data_dir=str(data),
                model_cache_dir=str(data / "models"),
                logs_dir=str(data / "logs"),
                log_level=engine.LogLevel.ERROR,
                disable_nonessential_telemetry=True,
            )
        )
        with engine.ModelInfoBuilder() as info:
            info.set_string_property("task", "chat-completion").set_string_property("alias", "m")
            self._model = manager.get_catalog(engine.CatalogType.LOCAL).register_model(str(path), "m:1", info)
        self._model.load()

    def run(self, conversations: int, turns: int) -> None:
        """Measure every way over the same conversations."""
        scripts = [_script(number, turns) for number in range(conversations)]
        ways: dict[str, Callable[[list[str]], list[tuple[str, float]]]] = {
            "OPENAI_JSON, everything, a new session each turn": self._json_afresh,
            "OPENAI_JSON, everything, one open session": self._json_open,
            "MessageItem, everything, a new session each turn": self._items_afresh,
            "MessageItem, the new message alone, one open session": self._items_open,
            "the same, every answer cut off after 8 tokens": lambda script: self._items_open(script, limit=8),
        }
        expected: list[list[tuple[str, float]]] = []
        for name, way in ways.items():
            answers = [way(script) for script in scripts]
            expected = expected or answers
            later = [first_s for told in answers for _, first_s in told[1:]]
            pairs = [
                (mine[0], right[0])
                for told, wanted in zip(answers, expected, strict=True)
                for mine, right in zip(told[1:], wanted[1:], strict=True)
            ]
            same = sum(mine == right for mine, right in pairs)
            equal = "" if "cut off" in name else f"; {same} of {len(pairs)} answers the same"
            print(f"{name}: first token of a later turn {1000 * statistics.median(later):.1f} ms{equal}")
        self._memory(scripts[0])

    def _json_afresh(self, script: list[str]) -> list[tuple[str, float]]:
        return self._talk(script, lambda messages: self._in_new_session(self._json(messages)))

    def _json_open(self, script: list[str]) -> list[tuple[str, float]]:
        with self._engine.ChatSession(self._model) as session:
            return self._talk(script, lambda messages: self._ask(session, self._json(messages)))

    def _items_afresh(self, script: list[str]) -> list[tuple[str, float]]:
        return self._talk(script, lambda messages: self._in_new_session(self._items(messages)))

    def _items_open(self, script: list[str], limit: int = 300) -> list[tuple[str, float]]:
        with self._engine.ChatSession(self._model) as session:
            return self._talk(script, lambda messages: self._ask(session, self._items(messages[-1:], limit)))

    def _talk(
        self, script: list[str], answer: Callable[[list[dict[str, str]]], tuple[str, float]]
    ) -> list[tuple[str, float]]:
        messages: list[dict[str, str]] = []
        told = []
        for question in script:
            messages.append({"role": "user", "content": question})
            told.append(answer(messages))
            messages.append({"role": "assistant", "content": told[-1][0]})
        return told

    def _in_new_session(self, request: Any) -> tuple[str, float]:
        with self._engine.ChatSession(self._model) as session:
            return self._ask(session, request)

    def _json(self, messages: list[dict[str, str]]) -> Any:
        body = {"model": "m:1", "messages": messages, "max_tokens": 300, "temperature": 0}
        text = self._engine.TextItem(orjson.dumps(body).decode(), self._engine.TextItemType.OPENAI_JSON)
        return self._engine.Request().add_item(text)

    def _items(self, messages: list[dict[str, str]], limit: int = 300) -> Any:
        request = self._engine.Request()
        for message in messages:
            role = self._engine.MessageRole[message["role"].upper()]
            request.add_item(self._engine.MessageItem(role, message["content"]))
        search = self._engine.SearchOptions(max_output_tokens=limit, temperature=0.0)
        return request.set_options(self._engine.RequestOptions(search=search))

    def _ask(self, session: Any, request: Any) -> tuple[str, float]:
        """The answer, and seconds to its first token."""
        session.set_streaming(True)
        texts: list[str] = []
        first_s, begun = 0.0, time.perf_counter()
        with request, session.process_streaming_request(request) as stream:
            for item in stream:
                text = _text_of(item.text)
                if text and not first_s:
                    first_s = time.perf_counter() - begun
                texts.append(text)
            with stream.final_response as final:
                final.get_usage()
        return "".join(texts), first_s

    def _memory(self, script: list[str]) -> None:
        process, sizes, sessions = psutil.Process(), [], []
        before = process.memory_info().rss
        for _ in range(4):
            session = self._engine.ChatSession(self._model)
            self._ask(session, self._items([{"role": "user", "content": script[0]}]))
            sessions.append(session)
            sizes.append(process.memory_info().rss - before)
            before = process.memory_info().rss
        for session in sessions:
            session.__exit__(None, None, None)
        freed = before - process.memory_info().rss
        print(
            f"memory of an open session: {statistics.median(sizes) / 2**20:.1f} MiB; {freed / 2**20:.1f} MiB of four freed"
        )


def _text_of(item: str) -> str:
    if not item.startswith('{"choices"'):
        return item
    return str(orjson.loads(item)["choices"][0]["delta"].get("content") or "")


def _script(seed: int, turns: int) -> list[str]:
    """What a user says: first something long, then questions. The same for the same ``seed``."""
    dice = random.Random(seed)
    text = " ".join(dice.choice(WORDS) for _ in range(500))
    return [f"{text}. {dice.choice(QUESTIONS)}", *(dice.choice(QUESTIONS) for _ in range(turns - 1))]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    bundled = Path(fastapi_foundry.__file__).parent / "demo_model"
    parser.add_argument("--model", type=Path, default=bundled, help="a directory with genai_config.json")
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
