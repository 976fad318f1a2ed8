"""``python -m tests.support.doubles gen1|gen2|gen3|openai [--port N] [--home DIR] [--fault NAME_OR_JSON]...``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
from pathlib import Path

from tests.support.doubles.gen1 import Gen1Double
from tests.support.doubles.gen2 import Gen2Double
from tests.support.doubles.gen3 import Gen3Double
from tests.support.doubles.models import DEFAULT_MODELS
from tests.support.doubles.openai_like import HABITS, OpenAIDouble
from tests.support.doubles.process import ended_with_its_parent
from tests.support.doubles.service import DoubleOptions

_DOUBLES = {double.generation: double for double in (Gen1Double, Gen2Double, Gen3Double, OpenAIDouble)}


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="tests.support.doubles")
    parser.add_argument("generation", choices=sorted(_DOUBLES))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--model", action="append", help="ID,alias=A,state=catalog|cached|loaded,task=T")
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--load-s", type=float, default=0.0)
    parser.add_argument("--download-s", type=float, default=0.05)
    parser.add_argument("--chunk-delay-s", type=float, default=0.0)
    parser.add_argument("--habit", action="append", default=[], choices=HABITS)
    parser.add_argument("--supervised", action="store_true", help="end when standard input does")
    given = parser.parse_args()
    options = DoubleOptions(
        home=(given.home or Path(tempfile.mkdtemp(prefix="double-"))).resolve(),
        port=given.port,
        models=tuple(given.model or DEFAULT_MODELS),
        faults=tuple(given.fault),
        load_s=given.load_s,
        download_s=given.download_s,
        chunk_delay_s=given.chunk_delay_s,
        habits=tuple(given.habit),
    )
    double = _DOUBLES[given.generation](options)
    await double.listen(options.port)
    ready = {"event": "ready", "url": double.url, "pid": os.getpid(), "home": str(options.home)}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    if given.supervised:
        threading.Thread(target=ended_with_its_parent, daemon=True).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
