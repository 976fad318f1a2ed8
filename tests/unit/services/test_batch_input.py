"""The input file of a batch: checked as a whole, read from wherever the work stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastapi_foundry.services.batch_input import check_input, lines_without

URL = "/v1/completions"


def line(custom_id: str, prompt: str = "x") -> bytes:
    request = {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "m", "prompt": prompt}}
    return json.dumps(request).encode()


async def checked(path: Path, content: bytes, *, max_lines: int = 100, max_line_bytes: int = 1000):
    path.write_bytes(content)
    return await check_input(path, URL, max_lines=max_lines, max_line_bytes=max_line_bytes)


async def read(path: Path, done: set[int] | None = None, *, max_line_bytes: int = 1000) -> list[tuple[int, str]]:
    return [
        (each.number, each.custom_id)
        async for each in lines_without(path, done or set(), max_line_bytes=max_line_bytes)
    ]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \n"])
async def test_lines_are_numbered_as_an_editor_does(tmp_path: Path, end: bytes) -> None:
    content = b"\xef\xbb\xbf" + line("a") + b"\r\n\n" + line("b") + b"\n" + line("c") + end
    assert await checked(tmp_path / "in", content) == (3, [])
    assert await read(tmp_path / "in") == [(1, "a"), (3, "b"), (4, "c")]
    assert await read(tmp_path / "in", {1, 4}) == [(3, "b")]


async def test_a_line_that_is_too_long_is_named_and_the_next_ones_are_still_counted_right(tmp_path: Path) -> None:
    fits = line("a", "x" * (1000 - len(line("a", ""))))
    assert len(fits) == 1000
    total, problems = await checked(tmp_path / "in", fits + b"\n" + line("b", "x" * 5000) + b"\n" + b"[]\n" + line("c"))
    assert total == 3
    assert [(problem.line, problem.code) for problem in problems] == [(2, "line_too_long"), (3, "invalid_json_line")]


async def test_problems_and_requests_are_bounded(tmp_path: Path) -> None:
    _, problems = await checked(tmp_path / "in", b"x\n" * 5000)
    assert len(problems) == 100
    many = b"\n".join(line(str(number)) for number in range(101))
    _, problems = await checked(tmp_path / "in", many)
    assert [(problem.line, problem.code) for problem in problems] == [(None, "too_many_requests")]
    assert await checked(tmp_path / "in", many, max_lines=101) == (101, [])


@pytest.mark.parametrize(
    "broken", [b'{"custom_id": NaN}', b"\xff\xfe{}", b"null", b'"x"', b'{"custom_id": "a"', b"[" * 500, b'{"a":' * 500]
)
async def test_whatever_a_line_holds_it_is_a_problem_and_no_crash(tmp_path: Path, broken: bytes) -> None:
    _, (problem,) = await checked(tmp_path / "in", line("a") + b"\n" + broken, max_line_bytes=10_000)
    assert (problem.line, problem.code) == (2, "invalid_json_line")
