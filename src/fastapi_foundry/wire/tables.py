"""Rows as CSV and as JSON Lines, for whatever reads tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

__all__ = ["as_csv", "as_json_lines"]

# A spreadsheet would take a cell that begins with one of these for a formula, and run it.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A line of names and one for each row; None is empty, what is structured is JSON, lines end in CR LF (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def as_json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """One object on each line."""
    return "".join(orjson.dumps(row).decode() + "\n" for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
