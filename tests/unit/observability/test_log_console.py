"""What the console shows in which mode."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastapi_foundry.observability.logging import get_logger

logger = get_logger(__name__)
LEVELS = ["debug", "info", "warning", "error", "critical"]


def shown(text: str) -> list[str]:
    return [level for level in LEVELS if f"a {level} record" in text]


def log_all() -> None:
    for level in LEVELS:
        getattr(logger, level)(f"a {level} record")


@pytest.mark.parametrize(
    ("settings", "console", "files"),
    [
        ({"mode": "prod"}, ["critical"], LEVELS[1:]),
        ({"mode": "dev"}, LEVELS, LEVELS),
        ({"mode": "prod", "level": "DEBUG"}, LEVELS, LEVELS),
        ({"mode": "dev", "level": "ERROR"}, LEVELS[3:], LEVELS[3:]),
    ],
)
def test_the_mode_decides_and_an_explicit_level_beats_it(logs, capsys, settings, console, files):
    logs.configure(**settings)
    log_all()
    assert shown(logs.text()) == files
    captured = capsys.readouterr()
    assert shown(captured.err) == console
    assert captured.out == ""


def test_dev_mode_shows_file_and_line(logs, capsys):
    logs.configure(mode="dev")
    logger.debug("where am I")
    logs.handle.close()
    assert "test_log_console.py:" in capsys.readouterr().err


def test_dev_mode_is_coloured_where_colour_is_wanted(logs, capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    logs.configure(mode="dev")
    try:
        int("in colour")
    except ValueError:
        logger.exception("with a traceback", field="a\x1b]0;title\x07b")
    logs.handle.close()
    written = capsys.readouterr().err
    assert "\x1b[" in written
    assert "test_log_console.py:" in written
    assert "ValueError: invalid literal" in written
    assert "\x1b]" not in written


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1", "FORCE_COLOR": "1"}, {}])
def test_no_colour_in_a_pipe_or_where_it_is_refused(logs, capsys, monkeypatch, variables):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    logs.configure(mode="dev")
    logger.info("plain")
    logs.handle.close()
    assert "\x1b" not in capsys.readouterr().err


def test_one_logger_can_be_verbose_in_a_quiet_process(logs, capsys):
    logs.configure(mode="prod")
    get_logger("x", mode="dev").debug("verbose")
    get_logger("y").debug("quiet")
    assert "verbose" in logs.text()
    assert "quiet" not in logs.text()
    assert "verbose" in capsys.readouterr().err


def test_one_logger_can_be_quiet_in_a_verbose_process(logs, capsys):
    logs.configure(mode="dev")
    get_logger("x", mode="prod").debug("quiet")
    get_logger("x", mode="prod").info("to the file")
    assert "quiet" not in logs.text()
    assert "to the file" not in capsys.readouterr().err


def test_an_explicit_level_beats_a_loggers_own_mode(logs, capsys):
    logs.configure(level="WARNING")
    get_logger("x", mode="dev").info("hidden")
    assert "hidden" not in logs.text() + capsys.readouterr().err


def test_a_closed_standard_error_harms_nobody(tmp_path):
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from fastapi_foundry.observability.logging import configure_logging, get_logger\n"
        "from fastapi_foundry.settings import LoggingSettings\n"
        "handle = configure_logging(LoggingSettings(mode='dev'), home=Path(sys.argv[1]), process='gateway')\n"
        "os.close(2)\n"
        "get_logger('x').critical('one'); handle.close()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.DEVNULL, check=False, timeout=30)
    assert "one" in (tmp_path / "logs" / "fastapi-foundry.log").read_text()


def test_production_mode_does_not_load_what_only_colours_need(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from fastapi_foundry.observability.logging import configure_logging, get_logger\n"
        "from fastapi_foundry.settings import LoggingSettings\n"
        "handle = configure_logging(LoggingSettings(), home=Path(sys.argv[1]), process='gateway')\n"
        "get_logger('x').critical('one'); handle.close()\n"
        "print(sorted({'rich', 'structlog', 'asyncio'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
