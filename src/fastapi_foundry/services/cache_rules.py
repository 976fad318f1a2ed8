"""Which requests the cache of answers is for, under which key an answer is kept, and which answers are. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

__all__ = ["CacheUse", "cache_key", "cache_use", "is_complete"]

_CHAT: Final = "/v1/chat/completions"
_PATHS: Final = frozenset({_CHAT, "/v1/completions"})
# What cannot change the answer; the model is in the key by its id.
_IRRELEVANT: Final = frozenset({"metadata", "model", "prompt_cache_key", "safety_identifier", "store", "user"})
_SHAPE: Final = frozenset({"stream", "stream_options"})
_COMPLETE: Final = frozenset({"length", "stop", "tool_calls"})


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What a request may do with the cache.

    Attributes:
        read: Be answered from it.
        write: Have its answer kept.
    """

    read: bool
    write: bool

    def __bool__(self) -> bool:
        return self.read or self.write


_NONE: Final = CacheUse(read=False, write=False)


def cache_use(path: str, body: Mapping[str, Any], *, asked: str = "", cache_control: str = "") -> CacheUse:
    """What a request may do with the cache, where there is one.

    Args:
        path: Only chat and text completions are kept.
        body: The parsed request; deterministic ones (temperature 0, or a seed) are kept without being asked to.
        asked: The header ``x-foundry-cache``: ``on`` also for others, ``off`` for none.
        cache_control: The header ``cache-control``: ``no-store`` keeps out of it, ``no-cache`` asks for a new answer,
            which is kept.
    """
    wish = asked.strip().lower()
    directives = {part.partition("=")[0].strip().lower() for part in cache_control.split(",")}
    if path not in _PATHS or wish == "off" or "no-store" in directives:
        return _NONE
    temperature = body.get("temperature")
    deterministic = body.get("seed") is not None or (temperature is not None and temperature == 0)
    if not (deterministic or wish == "on"):
        return _NONE
    return CacheUse(read="no-cache" not in directives, write=True)


def cache_key(
    path: str, body: Mapping[str, Any], *, model_id: str, engine: str, scope: str, ignore_stream: bool = True
) -> bytes:
    """The key of a request's answer: 32 bytes that differ wherever the answer might.

    What was asked of the engine must be ``body`` too, and not bytes that another parser may read otherwise (a name
    given twice): else one key's answer could be made for the request of another.

    Args:
        body: The parsed request; unknown fields count, and a field that is null is one that is left out.
        model_id: The full id that its model stands for.
        engine: Which engine, and which version of it.
        scope: Who shares answers: the id of a key, or the same for all.
        ignore_stream: Streams are made from whole answers.
    """
    ignored = _IRRELEVANT | _SHAPE if ignore_stream else _IRRELEVANT
    asked = {name: value for name, value in body.items() if value is not None and name not in ignored}
    # A list, so that no part can run into the next.
    known = orjson.dumps([path, model_id, engine, scope, asked], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(known).digest()


def is_complete(body: bytes) -> bool:
    """Whether ``body`` is an answer that came to its end, and no error, nor one that a filter or a failure cut off."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    choices = answer.get("choices") if isinstance(answer, dict) and not answer.get("error") else None
    return bool(choices) and all(
        isinstance(choice, dict) and choice.get("finish_reason") in _COMPLETE for choice in choices or ()
    )
