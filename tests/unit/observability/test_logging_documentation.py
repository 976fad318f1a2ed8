"""docs/logging.md says what the code does."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from test_log_jq_recipes import MEAN_DURATION, PATHS, RECENT_ERRORS

from fastapi_foundry.observability.logging import get_logger

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")


def test_every_file_is_documented_with_its_process(logs):
    rows = re.findall(r"^\| `([a-z-]+\.(?:log|jsonl))` \| (\w+) \|", PAGE, re.MULTILINE)
    for process, label in (("gateway", "gateway"), ("service", "service"), ("cli", "commands")):
        logs.configure(process).close()
        made = {path.name for path in logs.directory.iterdir()}
        assert made == {name for name, by in rows if by == label}
        for path in logs.directory.iterdir():
            path.unlink()


def test_the_recipes_are_those_of_the_requirements():
    name = "fastapi-foundry-structured.jsonl"
    recipes = re.findall(r"```sh\n(.*?)\n```", PAGE, re.DOTALL)
    assert recipes == [f"{RECENT_ERRORS} {name}", PATHS.format(file=name), MEAN_DURATION.format(file=name)]


def test_the_sample_record_has_the_fields_of_a_real_one(logs, in_request):
    (sample,) = re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL)
    logs.configure()
    in_request("req-1")
    get_logger("x").log_api_request("GET", "/v1/models", 200, 0.012)
    assert list(json.loads(sample)) == list(logs.record())


def test_every_own_field_is_documented(logs):
    logs.configure(mode="dev")
    try:
        int("x")
    except ValueError:
        get_logger("x").exception("broken", request_id="r", duration=1.0)
    for name in logs.record():
        assert f"| `{name}` |" in PAGE


def test_the_code_on_the_page_runs(logs):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    logs.configure()
    names: dict[str, object] = {"__name__": "example"}
    exec(example, names)
    asyncio.run(names["scan"]())
    assert [record["message"] for record in logs.records()] == [
        "store scanned",
        "model loaded",
        "request",
        "model operation",
    ]
