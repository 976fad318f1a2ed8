"""The ``Via`` header: read, carried on, and refused when it says that a request has been here."""

from __future__ import annotations

import asyncio

import pytest

from fastapi_foundry.engines.via import MOST_GATEWAYS, Via, gateways_in, gateways_passed
from fastapi_foundry.errors import EngineLoopError


def pseudonym(number: int) -> str:
    return f"foundry-{number:016x}"


def passed(count: int) -> str:
    return ", ".join(f"1.1 {pseudonym(number)}" for number in range(count))


def test_each_process_has_a_pseudonym_of_its_own() -> None:
    first, second = Via(), Via()
    assert first.pseudonym != second.pseudonym
    assert gateways_in(first.own) == (first.pseudonym,)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", ()),
        ("1.1 nginx, 2 cdn.example (a comment)", ()),
        (f"1.1 nginx,1.1 {pseudonym(1)} (FastAPI Foundry) , HTTP/2 {pseudonym(2)}", (pseudonym(1), pseudonym(2))),
        (f"1.1 x{pseudonym(1)}, 1.1 {pseudonym(1)}0, 1.1 foundry-xyz, {pseudonym(1)}", ()),
    ],
)
def test_gateways_are_told_from_other_proxies(header: str, found: tuple[str, ...]) -> None:
    assert gateways_in(header) == found


def test_what_is_sent_on_tells_what_came_in() -> None:
    via = Via()
    assert via.header == via.own
    with via.serving(f"1.1 nginx, {passed(1)}"):
        assert via.header == f"1.1 nginx, {passed(1)}, {via.own}"
        assert gateways_passed() == (pseudonym(0),)
    assert via.header == via.own
    with via.serving("1.1 nginx"):
        assert gateways_passed() == ()


@pytest.mark.parametrize("header", [f"1.1 {'x' * 2000}, {passed(2)}", f"1.1 \xe9t\xe9, {passed(2)}"])
def test_of_a_header_that_is_too_long_or_odd_only_the_gateways_are_sent_on(header: str) -> None:
    via = Via()
    with via.serving(header):
        assert via.header == f"{passed(2)}, {via.own}"


def test_a_request_that_has_been_here_is_refused() -> None:
    via = Via()
    with pytest.raises(EngineLoopError, match="came back"), via.serving(f"{passed(1)}, {via.own}, 1.1 nginx"):
        pass


def test_a_chain_may_have_eight_gateways_this_one_among_them() -> None:
    with Via().serving(passed(MOST_GATEWAYS - 1)):
        pass
    with pytest.raises(EngineLoopError, match="more than 8 gateways"), Via().serving(passed(MOST_GATEWAYS)):
        pass


async def test_requests_that_are_served_at_the_same_time_have_each_their_own() -> None:
    via = Via()

    async def serve(number: int) -> str:
        with via.serving(f"1.1 {pseudonym(number)}"):
            await asyncio.sleep(0)
            return via.header

    headers = await asyncio.gather(*(serve(number) for number in range(3)))
    assert headers == [f"1.1 {pseudonym(number)}, {via.own}" for number in range(3)]
