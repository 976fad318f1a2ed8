"""Every file of examples/ runs as it is against a real gateway and prints what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ProductProcess
from tests.support.tools import require_tool

EXAMPLES = Path(__file__).parents[2] / "examples"
PRINTED = {
    "basic_usage.py": (r"model: foundry-demo:1\n", r"answer: .*foundry-demo", r"tokens: [1-9]\d* in, [1-9]\d* out\n"),
    "streaming.py": (r"fastapi-foundry model download", r"tokens: [1-9]\d*, first after \d+ ms\n"),
    "curl.sh": (
        r'"status": ?"healthy"',
        r'"object": ?"list"',
        r'"object": ?"chat\.completion"',
        r"(?m)^data: \[DONE\]$",
        r'--- the native API\n\{"success": ?true',
        r'--- several prompts at once\n\{"success": ?true',
    ),
}


def test_every_example_is_listed_and_run() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in {".py", ".sh"}}
    listed = set(re.findall(r"^\| `([^`]+)`", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert files == listed == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_promises(name: str, shared_gateway: ProductProcess) -> None:
    program = sys.executable if name.endswith(".py") else "sh"
    if name.endswith(".sh"):
        require_tool("curl")
    environment = os.environ | {"FOUNDRY_URL": shared_gateway.url}
    done = subprocess.run(
        [program, EXAMPLES / name], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for promised in PRINTED[name]:
        assert re.search(promised, done.stdout), f"{promised} is not in:\n{done.stdout}"
