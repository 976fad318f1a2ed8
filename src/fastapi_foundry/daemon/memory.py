"""What processes take, what the machine gives, and what a model may need. Memory is in MB (MiB) throughout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import psutil

from fastapi_foundry.daemon.placement import Need

__all__ = [
    "BUDGET_SHARE",
    "MIB",
    "ProcessMemory",
    "default_budget_mb",
    "machine_memory_mb",
    "memory_mb",
    "need_from_files",
]

MIB: Final = 1024 * 1024
"""Bytes."""

BUDGET_SHARE: Final = 0.8
"""Share of the memory that a budget which nobody set takes; the rest is for the service, the gateway and others."""

# Measured with foundry-local-sdk 2.2.1 on Linux: a runner without its model's weights.
_RUNNER_MB: Final = 70.0
# Weights are read, laid out anew for the processor, and partly kept twice.
_WEIGHTS_FACTOR: Final = 1.2
# Most requests are shorter than the context of a large model, whose full cache would be larger than the model.
_LIKELY_TOKENS: Final = 4096
# The CPU builds keep the cache in 32-bit floats.
_CACHE_VALUE_BYTES: Final = 4
# An unlimited cgroup says so with a number near 2^63.
_NO_LIMIT_BYTES: Final = 2**60
_MAX_CONFIG_BYTES: Final = 4 * MIB


class ProcessMemory(NamedTuple):
    """Resident memory of a process now, and at its highest as far as that is known."""

    rss_mb: float
    peak_mb: float

    @classmethod
    def of(cls, pid: int) -> ProcessMemory | None:
        """Measure; None when the process is gone. Takes about 40 µs, so an event loop may do it now and then."""
        try:
            status = Path(f"/proc/{pid}/status").read_bytes()
        except OSError:
            return _portable(pid)
        sizes = {}
        for line in status.splitlines():
            if line.startswith((b"VmRSS:", b"VmHWM:")):
                name, size, *_ = line.split()
                sizes[name] = int(size) / 1024
        if b"VmRSS:" not in sizes:
            # A process that has ended and was not waited for has no memory any more.
            return None
        return cls(sizes[b"VmRSS:"], max(sizes[b"VmRSS:"], sizes.get(b"VmHWM:", 0.0)))


def _portable(pid: int) -> ProcessMemory | None:
    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None
    return ProcessMemory(info.rss / MIB, max(info.rss, getattr(info, "peak_wset", 0)) / MIB)


def memory_mb(pid: int) -> float | None:
    """Resident memory of a process; None when it is gone."""
    memory = ProcessMemory.of(pid)
    return None if memory is None else round(memory.rss_mb, 1)


def machine_memory_mb(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """What this process and its children may have at most: the machine's memory, or its cgroup's limit. Blocks.

    Args:
        proc: Where the kernel tells of processes; another place in tests.
        cgroups: Where the control groups are, of version 1 or 2.
    """
    total: float = psutil.virtual_memory().total
    return min([total, *_cgroup_limits(proc, cgroups)]) / MIB


def default_budget_mb() -> float:
    """The budget where none is set; blocks on small files."""
    return machine_memory_mb() * BUDGET_SHARE


def _cgroup_limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Every limit on the way from this process's group up to the root; inside a container its root has the limit."""
    try:
        lines = (proc / "self" / "cgroup").read_text("ascii", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for directory in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):
                limit = int((directory / name).read_text("ascii"))
                if 0 < limit < _NO_LIMIT_BYTES:
                    yield limit
            if directory == root:
                break


def need_from_files(path: Path, size_bytes: int, context_length: int) -> Need:
    """What a model that was never measured is likely to take. Blocks on one small file.

    The weights with what the engine makes of them, the runner itself, and at its peak the KV cache of one request:
    ``2 x layers x KV heads x head size x 4 bytes`` for each token, as far as ``genai_config.json`` says.

    Args:
        path: The model's directory.
        size_bytes: Of all its files.
        context_length: Tokens; 0 when it is not known.
    """
    least = _RUNNER_MB + _WEIGHTS_FACTOR * size_bytes / MIB
    tokens = min(context_length or _LIKELY_TOKENS, _LIKELY_TOKENS)
    return Need(least, least + tokens * _cache_bytes_per_token(_decoder(path)) / MIB)


def _decoder(path: Path) -> Mapping[str, Any]:
    try:
        file = path / "genai_config.json"
        config = orjson.loads(file.read_bytes()) if file.stat().st_size <= _MAX_CONFIG_BYTES else {}
        decoder = config["model"]["decoder"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return {}
    return decoder if isinstance(decoder, dict) else {}


def _cache_bytes_per_token(decoder: Mapping[str, Any]) -> int:
    layers, heads, size = (decoder.get(key) for key in ("num_hidden_layers", "num_key_value_heads", "head_size"))
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(size, int)):
        return 0
    return max(0, 2 * layers * heads * size * _CACHE_VALUE_BYTES)
