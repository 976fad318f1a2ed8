"""What one log record costs: on the caller's side, and in processor time with the writing.

    python benchmarks/logging/logging_cost.py

Each figure is the median of 7 bursts of 1,000 records, in microseconds; the last line is the standard
library's own rotating handlers with three files, for comparison.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fastapi_foundry.observability.logging import configure_logging, get_logger
from fastapi_foundry.settings import LoggingSettings

RECORDS = 1000
BURSTS = 7


def measure(label: str, log: Callable[[], None]) -> None:
    called, total = [], []
    for _ in range(BURSTS):
        time.sleep(0.2)
        processor, begin = time.process_time(), time.perf_counter()
        for _ in range(RECORDS):
            log()
        called.append(time.perf_counter() - begin)
        time.sleep(0.3)  # the writer gathers for 20 ms, then writes
        total.append(time.process_time() - processor)
    scale = 1e6 / RECORDS
    print(
        f"{label:<28} caller {statistics.median(called) * scale:6.1f} us"
        f"   processor in all {statistics.median(total) * scale:6.1f} us"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        logger = get_logger("fastapi_foundry.benchmark")
        with configure_logging(LoggingSettings(), home=Path(directory), process="gateway") as handle:
            measure(
                "request (3 files)",
                lambda: logger.log_api_request(
                    "POST", "/v1/chat/completions", 200, 0.0123, request_id="r", user_id="u"
                ),
            )
            measure("info (2 files)", lambda: logger.info("model loaded", model_id="foundry-demo:1", duration=0.5))
            measure("debug, switched off", lambda: logger.debug("x", a=1))
            print("dropped:", handle.dropped)
        plain = logging.getLogger("plain")
        plain.propagate = False
        plain.setLevel(logging.INFO)
        handlers = [RotatingFileHandler(Path(directory) / f"{number}.log", maxBytes=10_485_760) for number in range(3)]
        for handler in handlers:
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
            plain.addHandler(handler)
        measure("standard library (3 files)", lambda: plain.info("request path=%s status=%d", "/v1/models", 200))
        for handler in handlers:
            handler.close()


if __name__ == "__main__":
    main()
