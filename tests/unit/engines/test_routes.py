"""Names of models that come through other gateways."""

from __future__ import annotations

import pytest

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.routes import RouteTable, Target
from fastapi_foundry.errors import ModelNotFoundError
from fastapi_foundry.settings import ModelRouteSettings, ReplicaSettings

B, C = "foundry-000000000000000b", "foundry-000000000000000c"


def card(name: str, *via: str, **extra: object) -> ModelCard:
    return ModelCard(name, 1, "tests", extra={**extra, **({"via": list(via)} if via else {})})


def table(*, aliases: dict[str, str] | None = None, **engines: list[ModelCard]) -> RouteTable:
    routes = {name: ModelRouteSettings(replicas=[ReplicaSettings(model=to)]) for name, to in (aliases or {}).items()}
    made = RouteTable(routes, {name: [] for name in engines})
    for name, cards in engines.items():
        made.update(name, cards)
    return made


def ids(made: RouteTable) -> list[str]:
    return [card.id for card in made.public_cards()]


def test_a_name_that_says_an_engine_of_another_gateway_is_never_taken_for_one_of_ours() -> None:
    made = table(foundry=[card("phi")], b=[card("foundry::phi", B), card("c::phi", B)])
    assert ids(made) == ["phi", "b::foundry::phi", "b::c::phi"]
    for shown in made.public_cards()[1:]:
        assert shown.names == {shown.id}
        assert made.groups(shown.id) == [[Target("b", shown.id.removeprefix("b::"))]]
    assert made.groups("foundry::phi") == [[Target("foundry", "phi")]]


def test_an_alias_can_stand_for_such_a_model() -> None:
    made = table(aliases={"far": "b::foundry::phi"}, foundry=[], b=[card("foundry::phi", B, context_length=7)])
    shown = made.public_cards()[-1]
    assert (shown.id, shown.extra["alias_of"], shown.extra["context_length"]) == ("far", "b::foundry::phi", 7)


def test_a_bare_name_is_that_of_the_nearest_model() -> None:
    made = table(b=[card("phi", B, alias="p"), card("far", B, C)], foundry=[card("phi", alias="p")], d=[card("far", B)])
    assert ids(made) == ["b::phi", "b::far", "phi", "far"]
    assert made.groups("phi") == made.groups("foundry::phi")
    assert made.groups("p") == [[Target("foundry", "p")]]
    assert [shown.extra.get("alias") for shown in made.public_cards()] == [None, None, "p", None]


def test_two_that_are_equally_near_have_to_be_told_apart() -> None:
    made = table(foundry=[], b=[card("phi", B)], c=[card("phi", C)])
    assert ids(made) == ["b::phi", "c::phi"]
    with pytest.raises(ModelNotFoundError, match="say which: b::phi, c::phi"):
        made.groups("phi")


def test_what_comes_through_a_gateway_that_is_an_engine_here_is_that_engines_to_offer() -> None:
    made = table(foundry=[], b=[card("b1", B), card("c1", B, C)], c=[card("c1", C), card("b1", C, B)])
    assert ids(made) == ["b1", "c1"]
    assert made.groups("c1") == [[Target("c", "c1")]]
    assert made.groups("b::c1") == [[Target("b", "c1")]]
