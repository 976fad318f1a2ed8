"""docs/chat-page.md names every file of the page and shows pictures that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "chat-page.md"
STATIC = ROOT / "src" / "fastapi_foundry" / "web" / "static"


def test_every_file_of_the_page_is_named():
    named = set(re.findall(r"`([\w.]+)`", DOCUMENT.read_text(encoding="utf-8")))
    assert {path.name for path in STATIC.iterdir() if path.is_file()} <= named


def test_every_picture_exists_and_is_small():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", DOCUMENT.read_text(encoding="utf-8"))
    assert len(shown) == 5
    assert all(0 < (DOCUMENT.parent / name).stat().st_size < 150_000 for name in shown)


def test_no_file_of_the_page_names_another_host_or_runs_inline():
    for path in STATIC.iterdir():
        if path.is_file():
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(
                r"https?://|innerHTML|insertAdjacentHTML|document\.write|eval\(| style=| on\w+=", text
            ), path
