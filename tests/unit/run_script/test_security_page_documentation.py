"""SECURITY.md speaks of rights, settings, commands and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from fastapi_foundry.cli.main import build_app
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.settings import describe_settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_it_is_short_enough_to_be_read():
    assert PAGE.count("\n") < 200
    assert max(len(line) for line in PAGE.splitlines() if not line.startswith("|")) <= 130


def test_every_right_has_its_row():
    rows = "".join(line for line in PAGE.splitlines() if line.startswith("| **A key with"))
    assert {scope for scope in Scope if f"`{scope}`" in rows} == set(Scope)


def test_the_settings_that_it_names_exist():
    known = {setting.key for setting in describe_settings()}
    sections = {key.partition(".")[0] for key in known}
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+)(?: = \w+)?`", PAGE))
    assert len(named) >= 3
    assert named <= known
    assert {"tls", "http_limits"} <= sections


def test_the_commands_and_files_that_it_names_exist():
    commands = typer.main.get_command(build_app()).commands
    for command in re.findall(r"`fastapi-foundry ([a-z]+)", PAGE):
        assert command in commands
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / link).is_file(), link
    for module in re.findall(r"`([a-z_]+/[a-z_]+\.py)`", PAGE):
        assert (ROOT / "src" / "fastapi_foundry" / module).is_file(), module
