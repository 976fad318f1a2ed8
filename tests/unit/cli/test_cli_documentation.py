"""docs/cli.md and the program say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fastapi_foundry.cli import exits
from fastapi_foundry.cli.main import build_app

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"
_OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")


def sections() -> dict[str, str]:
    parts = re.split(r"^#{2,3} (?:`([^`]+)`|.*)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: text for title, text in zip(parts[1::2], parts[2::2], strict=True) if title}


def commands() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        if path:
            options = {name for option in command.params for name in option.opts if name.startswith("-")}
            found[" ".join(path)] = options
        for name, child in getattr(command, "commands", {}).items():
            walk(child, (*path, name))

    walk(typer.main.get_command(build_app()), ())
    return found


COMMANDS = commands()


def test_every_command_has_a_section_and_no_section_lacks_its_command():
    assert set(sections()) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented_and_no_documented_one_is_missing(command):
    rows = [line for line in sections()[command].splitlines() if line.startswith("| `-")]
    documented = {option for row in rows for option in _OPTION.findall(row.split("|")[1])}
    assert documented == COMMANDS[command] - {"--help", "-h"}


def test_every_global_option_is_documented():
    text = DOCUMENT.read_text(encoding="utf-8")
    root = typer.main.get_command(build_app())
    for option in root.params:
        assert f"`{option.opts[0]}" in text


def test_every_exit_code_is_documented():
    text = DOCUMENT.read_text(encoding="utf-8")
    codes = {getattr(exits, name) for name in exits.__all__ if name.isupper()}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)} == codes
