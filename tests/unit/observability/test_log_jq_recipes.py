"""The three recipes of the requirements, as they stand, with the real jq on real records."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from fastapi_foundry.observability.logging import get_logger
from tests.support.tools import require_tool

pytestmark = pytest.mark.jq

logger = get_logger(__name__)
FILE = "fastapi-foundry-structured.jsonl"
RECENT_ERRORS = """jq 'select(.level == "error" and (.timestamp | fromdateiso8601) > (now - 3600))'"""
PATHS = "jq -r 'select(.api_path) | .api_path' {file} | sort | uniq -c"
MEAN_DURATION = "jq -r 'select(.duration) | .duration' {file} | awk '{{sum+=$1; count++}} END {{print sum/count}}'"


@pytest.fixture
def file(logs) -> Path:
    require_tool("jq")
    logs.configure(mode="dev", level="DEBUG")
    logger.debug("noise")
    logger.log_api_request("GET", "/v1/models", 200, 0.5)
    logger.log_api_request("POST", "/v1/chat/completions", 200, 1.0)
    logger.log_api_request("GET", "/v1/models", 503, 1.5)
    logger.info("not a request", api_path="/no", duration="no number")
    logger.critical("down")
    try:
        int("x\nlevel=error")
    except ValueError:
        logger.exception("broken\n{")
    logs.handle.close()
    path = logs.directory / FILE
    old = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    old |= {"timestamp": "2020-01-01T00:00:00Z", "message": "long ago"}
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(old) + "\n")
    return path


def run(command: str) -> str:
    result = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True, timeout=30)
    assert result.stderr == ""
    return result.stdout


def test_errors_of_the_last_hour(file):
    found = json.loads("[" + re.sub(r"\}\s*\{", "},{", run(f"{RECENT_ERRORS} {file}")) + "]")
    assert [record["message"] for record in found] == ["request", "broken\n{"]


def test_requests_by_path(file):
    lines = [line.split() for line in run(PATHS.format(file=file)).splitlines()]
    assert lines == [["1", "/v1/chat/completions"], ["2", "/v1/models"]]


def test_mean_duration(file):
    assert run(MEAN_DURATION.format(file=file)).strip() == "1"
