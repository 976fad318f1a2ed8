"""The input file of a batch, read some lines at a time: checked as a whole first, then handed out line by line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from fastapi_foundry.wire.batches import BatchLine, LineProblem, check_line, parse_line

__all__ = ["check_input", "lines_without"]

_READ_AT_ONCE: Final = 262_144
_CHECKED_AT_ONCE: Final = 200
_MOST_PROBLEMS: Final = 100
_MARK: Final = b"\xef\xbb\xbf"  # with which some editors begin a file


class _Check:
    """The state of a check; ``step`` blocks for a few milliseconds."""

    def __init__(self, file: BinaryIO, endpoint: str, *, max_lines: int, max_line_bytes: int) -> None:
        self.total = 0
        self.problems: list[LineProblem] = []
        self._endpoint = endpoint
        self._max_lines = max_lines
        self._max_line_bytes = max_line_bytes
        self._lines = _numbered(file, max_line_bytes)
        self._seen: dict[str, int] = {}

    def step(self) -> bool:
        """Look at some lines; false when there is nothing more to be learned."""
        for _ in range(_CHECKED_AT_ONCE):
            number, line = next(self._lines, (0, b""))
            if not number:
                self._conclude()
                return False
            self._look_at(number, line)
            if self.total > self._max_lines:
                message = f"A batch may hold {self._max_lines} requests at most."
                self.problems = [LineProblem("too_many_requests", message)]
                return False
            if len(self.problems) >= _MOST_PROBLEMS:
                return False
        return True

    def _conclude(self) -> None:
        if not self.total and not self.problems:
            self.problems.append(LineProblem("empty_file", "The input file holds no request."))

    def _look_at(self, number: int, line: bytes) -> None:
        if len(line) > self._max_line_bytes:
            message = f"This line is longer than {self._max_line_bytes} bytes."
            self.problems.append(LineProblem("line_too_long", message, number))
            return
        self.total += 1
        checked = check_line(number, line, self._endpoint)
        if isinstance(checked, LineProblem):
            self.problems.append(checked)
            return
        first = self._seen.setdefault(checked.custom_id, number)
        if first != number:
            message = f"The custom_id of this line is that of line {first}; each must be unique."
            self.problems.append(LineProblem("duplicate_custom_id", message, number, "custom_id"))


async def check_input(
    path: Path, endpoint: str, *, max_lines: int, max_line_bytes: int
) -> tuple[int, list[LineProblem]]:
    """How many requests the file holds, and what is wrong with it: 100 problems at most.

    Raises:
        OSError: It cannot be read.
    """
    with await asyncio.to_thread(path.open, "rb") as file:
        check = _Check(file, endpoint, max_lines=max_lines, max_line_bytes=max_line_bytes)
        while await asyncio.to_thread(check.step):
            pass
        return check.total, check.problems


async def lines_without(path: Path, done: set[int], *, max_line_bytes: int) -> AsyncGenerator[BatchLine, None]:
    """The requests of a file that has been checked, but for those lines; some hundred KB are in memory at once.

    Raises:
        OSError: It cannot be read.
    """
    with await asyncio.to_thread(path.open, "rb") as file:
        numbered = _numbered(file, max_line_bytes)

        def some() -> list[BatchLine]:
            found, size = [], 0
            for number, line in numbered:
                if number in done:
                    continue
                found.append(parse_line(number, line))
                size += len(line)
                if size >= _READ_AT_ONCE:
                    break
            return found

        while lines := await asyncio.to_thread(some):
            for line in lines:
                yield line


def _numbered(file: BinaryIO, max_line_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, without those that are blank; one that is too long comes cut."""
    number = 0
    while line := file.readline(max_line_bytes + 1):
        number += 1
        if len(line) > max_line_bytes and not line.endswith(b"\n"):
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(max_line_bytes)
            yield number, line
            continue
        text = (line.removeprefix(_MARK) if number == 1 else line).strip()
        if text:
            yield number, text
