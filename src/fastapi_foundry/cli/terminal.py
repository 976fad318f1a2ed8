"""What a command says: text for people, one JSON document for programs.

Text goes through ``clean``, since model names and answers come from outside and could hold escape
sequences that move the cursor, rename the window or hide text.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Terminal", "clean", "clean_line", "megabytes"]

_NARROWEST: Final = 40  # columns; below that a table is cut, not squeezed
# Bidirectional overrides can make text read differently from what it is.
_BIDI: Final = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))

Progress = Callable[[float, str], None]


def clean(text: str) -> str:
    """The text without control characters; line feeds and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char for char in text if char in "\n\t" or (unicodedata.category(char) != "Cc" and char not in _BIDI)
    )


def clean_line(text: object) -> str:
    """The text as one line without control characters."""
    return " ".join(clean(str(text)).split())


def megabytes(value: object) -> str:
    """A size given in MB, for people; empty when it is unknown."""
    if not isinstance(value, int | float) or value <= 0:
        return ""
    return f"{value / 1024:.1f} GB" if value >= 1024 else f"{value:.0f} MB" if value >= 10 else f"{value:.1f} MB"  # noqa: PLR2004 - units


class Terminal:
    """Where one command's output goes.

    Args:
        json: Only ``document`` writes to stdout, and nothing else writes anything.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json

    def document(self, data: object) -> None:
        """Print the command's result as JSON; nothing when text is wanted."""
        if self.json:
            sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() + "\n")
            sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print the command's result as text on stdout; nothing when JSON is wanted."""
        if not self.json:
            sys.stdout.write(clean(text) + "\n")
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell what is going on, on stderr; nothing when JSON is wanted."""
        if not self.json:
            sys.stderr.write(clean(text) + "\n")
            sys.stderr.flush()

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table: plain columns into a pipe, Rich's on a terminal."""
        if self.json:
            return
        texts = [[clean_line(cell) for cell in row] for row in rows]
        if sys.stdout.isatty():
            _rich_table(headers, texts)
        else:
            self.say(_plain_table(headers, texts))

    def fields(self, rows: Sequence[tuple[str, object]]) -> None:
        """Print names and values, one to a line; a value that is empty or None is left out."""
        shown = [(name, clean_line(value)) for name, value in rows if value is not None and clean_line(value)]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.say(f"{name:<{width}}  {value}")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show a spinner on stderr while the body runs; one plain line where there is no terminal."""
        if self.json:
            yield
        elif not sys.stderr.isatty():
            self.note(f"{text} ...")
            yield
        else:
            with _stderr_console().status(clean_line(text)):
                yield

    @contextmanager
    def progress(self, text: str) -> Iterator[Progress]:
        """Show a bar on stderr while the body runs.

        Yields a function that takes percent done and, if it changed, the words beside the bar.
        """
        if self.json:
            yield lambda _percent, _text: None
        elif not sys.stderr.isatty():
            self.note(f"{text} ...")
            yield lambda _percent, _text: None
        else:
            from rich import progress as rich_progress  # noqa: PLC0415 - only a terminal needs Rich

            columns = (
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(),
                rich_progress.TaskProgressColumn(),
                rich_progress.TimeRemainingColumn(),
            )
            with rich_progress.Progress(*columns, console=_stderr_console(), transient=True) as bar:
                task = bar.add_task(clean_line(text), total=100.0)
                yield lambda percent, words: bar.update(
                    task, completed=percent, description=clean_line(words) if words else None
                )


def _stderr_console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs Rich

    return Console(stderr=True, highlight=False)


def _rich_table(headers: Sequence[str], rows: list[list[str]]) -> None:
    from rich import box  # noqa: PLC0415 - only a terminal needs Rich
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for index, header in enumerate(headers):
        # A model's name is what one copies, so it is never cut.
        table.add_column(header, overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def _plain_table(headers: Sequence[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[index]) for row in [list(headers), *rows]) for index in range(len(headers))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [headers, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def terminal_width() -> int:
    """Columns of the terminal, at least 40."""
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def error_document(message: str, code: str, exit_code: int, param: str | None = None) -> dict[str, Any]:
    """What ``--json`` prints for a failure."""
    return {"error": {"message": message, "code": code, "param": param, "exit_code": exit_code}}
