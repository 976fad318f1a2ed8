"""What one log record costs: on the caller's side, and in processor time with the writing.

    python benchmarks/logging/logging_cost.py

Each figure is the median of 15 bursts of 1,000 calls, and the least of them, in microseconds. The first lines are what
each generation leaves behind, two records in four files: in one call, by the two loggers, and by the two loggers where they
are told the request's id. The last one is the standard library's own rotating handlers with three files, for comparison.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.exchange_log import ExchangeLog
from fastapi_foundry.observability.logging import configure_logging, get_logger
from fastapi_foundry.settings import LoggingSettings

RECORDS = 1000
BURSTS = 15


def measure(label: str, log: Callable[[], object]) -> None:
    called, total = [], []
    for burst in range(BURSTS):
        ids = [f"req_{burst:016x}{number:016x}" for number in range(RECORDS)]
        time.sleep(0.2)
        processor, begin = time.process_time(), time.thread_time()
        for each in ids:
            request_id.set(each)
            log()
        called.append(time.thread_time() - begin)
        time.sleep(0.3)  # the writer gathers for 50 ms, then writes
        total.append(time.process_time() - processor)
    scale = 1e6 / RECORDS
    print(
        f"{label:<28} caller {statistics.median(called) * scale:6.1f} us, least {min(called) * scale:5.1f}"
        f"   processor in all {statistics.median(total) * scale:6.1f} us, least {min(total) * scale:5.1f}"
    )


def main() -> None:
    clock = itertools.count(1)

    def duration() -> float:
        return next(clock) / 7919

    with tempfile.TemporaryDirectory() as directory:
        logger = get_logger("fastapi_foundry.benchmark")

        exchanges = ExchangeLog("fastapi_foundry.benchmark", "fastapi_foundry.benchmark")

        def exchange() -> None:
            own_id, spent = (request_id.get() or "").encode(), duration()
            exchanges.write(
                "/v1/chat/completions",
                200,
                own_id,
                duration(),
                "foundry-demo:1",
                "ok",
                spent,
                17,
                42,
                spent / 3,
                "key_1",
            )

        def generation(**of: str | None) -> None:
            spent = duration()
            logger.log_model_operation(
                model_id="foundry-demo:1",
                operation="generate",
                status="ok",
                duration=spent,
                tokens_generated=42,
                input_tokens=17,
                output_tokens=42,
                generation_time=spent,
                first_byte_time=spent / 3,
                user_id="key_1",
                **of,
            )

        def request(**of: str | None) -> None:
            logger.log_api_request("POST", "/v1/chat/completions", 200, duration(), **of)

        def both(**of: str | None) -> None:
            generation(**of)
            request(**of)

        with configure_logging(LoggingSettings(), home=Path(directory), process="gateway") as handle:
            measure("both records, one call", exchange)
            measure("both records", both)
            measure("both records, id given", lambda: both(request_id=request_id.get()))
            measure("request (3 files)", request)
            measure("generation (3 files)", generation)
            measure("info (2 files)", lambda: logger.info("model loaded", model_id="foundry-demo:1", duration=0.5))
            measure("info, the long way", lambda: logger.info("model loaded", models=["a"], duration=0.5))
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
