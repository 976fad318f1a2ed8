"""What can go wrong on purpose, and to which requests."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Final

__all__ = ["FAULTS", "Fault", "FaultPlan"]

FAULTS: Final = {
    # instead of an answer
    "stall": "the request is read, nothing comes (for `seconds`, else until the client leaves)",
    "wedged": "the same for every request of any kind, the control routes excepted",
    "close": "the connection is closed without an answer",
    "reset": "the connection is reset without an answer",
    "half_head": "half a status line and header, then the end",
    "no_http": "bytes that are not HTTP",
    # another answer
    "unauthorized": "401",
    "rate_limited": "429 with Retry-After",
    "unavailable": "503 with Retry-After",
    "broken": "500 with a C++ file name",
    "error_in_200": "status 200 with an error inside; in a stream as its only frame",
    # in the middle of an answer, after `after_chunks` frames of a stream
    "half_json": "half of the answer, or half a frame, then the end of the connection",
    "stall_mid_stream": "silence (for `seconds`, else until the client leaves)",
    "close_mid_stream": "the end of the connection",
    "reset_mid_stream": "a TCP reset",
    "error_mid_stream": "an error frame, then the end without [DONE]",
    # the process; without `on` at once, with `on` when such a request arrives
    "crash": "the process exits with status 9",
    "move": "the listener closes, another port is opened (`port`, or any), every connection is reset",
    # loading takes `seconds`; requests for that model meanwhile are refused (503, Retry-After) or wait
    "slow_load": "see `meanwhile` (refuse | wait) and `on_demand` (a request for a cached model loads it)",
}
_BREAK_BODY: Final = {"half_json", "stall_mid_stream", "close_mid_stream", "reset_mid_stream", "error_mid_stream"}
_AT_ONCE: Final = {"crash", "move"}
_CPP: Final = "onnx_chat_generator.cc:431 static std::unique_ptr<fl::OnnxChatGenerator> "


@dataclass
class Fault:
    """One fault.

    Attributes:
        name: One of ``FAULTS``.
        on: ``inference``, ``load``, ``download``, ``list`` or ``any``.
        times: For so many such requests; None for all until the faults are replaced.
        seconds: How long, where that applies.
        after_chunks: For the faults in mid-stream.
        retry_after_s: Of a 429 and a 503.
        port: Of ``move``.
        meanwhile: Of ``slow_load``: ``refuse`` or ``wait``.
        on_demand: Of ``slow_load``: whether a request for a cached model begins to load it.
    """

    name: str
    on: str = ""
    times: int | None = None
    seconds: float | None = None
    after_chunks: int = 2
    retry_after_s: int = 2
    port: int = 0
    meanwhile: str = "refuse"
    on_demand: bool = False

    @classmethod
    def from_json(cls, value: Any) -> Fault:
        """From a name, an object with the fields above, or such an object as text.

        Raises:
            ValueError: It is no fault.
        """
        if isinstance(value, str):
            value = json.loads(value) if value.startswith("{") else {"name": value}
        known = {entry.name for entry in fields(cls)}
        if not isinstance(value, dict) or value.get("name") not in FAULTS or not set(value) <= known:
            raise ValueError(f"no such fault: {value}")
        return cls(**value)

    @property
    def at_once(self) -> bool:
        return self.name in _AT_ONCE and not self.on

    @property
    def breaks_body(self) -> bool:
        return self.name in _BREAK_BODY

    def concerns(self, kind: str) -> bool:
        on = self.on or ("any" if self.name == "wedged" else "inference")
        return on in {"any", kind}

    def error(self, message: str) -> dict[str, Any]:
        return {"code": None, "message": f"{_CPP}{message}", "param": None, "type": "server_error"}


class FaultPlan:
    """The faults to come, in order; the first that concerns a request is its fault."""

    def __init__(self, faults: list[Fault]) -> None:
        self._faults = faults

    @property
    def slow_load(self) -> Fault | None:
        return next((fault for fault in self._faults if fault.name == "slow_load"), None)

    def replace(self, faults: list[Fault]) -> None:
        self._faults = faults

    def take(self, kind: str) -> Fault | None:
        """The fault for a request of that kind; one with ``times`` is used up."""
        for fault in self._faults:
            if fault.name == "slow_load" or fault.times == 0 or not fault.concerns(kind):
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None
