"""Which engines answer for the name of a model: qualified names, bare names, aliases of one's own.

A model that comes through gateways says so in ``via``, one entry for each. The fewer, the nearer, and a bare name is
that of the nearest model; what comes through a gateway that is an engine here itself is that engine's to offer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.errors import ModelNotFoundError
from fastapi_foundry.settings import QUALIFIER, ModelRouteSettings, route_groups

__all__ = ["RouteTable", "Target"]

# A qualified name may be anything that a client makes up.
_MOST_NAMES_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Target:
    """One place that may answer.

    Attributes:
        engine: Its name in the configuration.
        model: The model by a name that this engine knows; its id or its alias.
        weight: Its share of the work among the replicas of its group.
    """

    engine: str
    model: str
    weight: float = 1.0

    @property
    def qualified(self) -> str:
        """``engine::model``."""
        return f"{self.engine}{QUALIFIER}{self.model}"


@dataclass(slots=True)
class RouteTable:
    """The names that are known now; pure look-ups, no waiting.

    Attributes:
        aliases: From the configuration; they hide models of the same name.
        cards: Each engine's models as it last listed them, by the engine's name, in the configuration's order.
    """

    aliases: Mapping[str, ModelRouteSettings]
    cards: dict[str, list[ModelCard]] = field(default_factory=dict)
    _bare: dict[str, list[Target]] = field(default_factory=dict)
    _groups: dict[str, list[list[Target]]] = field(default_factory=dict)

    def update(self, engine: str, cards: Iterable[ModelCard]) -> None:
        """Take over an engine's list."""
        self.cards[engine] = list(cards)
        self._bare = {}
        self._groups.clear()
        farthest: dict[str, int] = {}
        for name, listed in self.cards.items():
            for card in self._offered(name, listed):
                distance = len(_way(card))
                for known in _names(card):
                    if distance > farthest.setdefault(known, distance):
                        continue
                    if distance < farthest[known]:
                        farthest[known] = distance
                        self._bare[known] = []
                    targets = self._bare.setdefault(known, [])
                    if all(target.engine != name for target in targets):
                        targets.append(Target(name, card.id if known in card.names else known))

    def groups(self, name: str) -> list[list[Target]]:
        """The targets of ``name``: replicas within a group, fallbacks from group to group; never empty, not to be changed.

        What an alias mentions and no engine has now is left out.

        Raises:
            ModelNotFoundError: Nothing is left, or a bare name is that of several engines' models.
        """
        known = self._groups.get(name)
        if known is None:
            known = self._find_groups(name)
            if len(self._groups) < _MOST_NAMES_KEPT:
                self._groups[name] = known
        return known

    def _find_groups(self, name: str) -> list[list[Target]]:
        if name not in self.aliases:
            return [[self._one(name)]]
        found: list[list[Target]] = []
        reason: ModelNotFoundError | None = None
        for group in route_groups(name, self.aliases):
            targets = []
            for replica in group:
                try:
                    targets.append(replace(self._one(replica.model), weight=replica.weight))
                except ModelNotFoundError as error:
                    reason = error
            if targets:
                found.append(targets)
        if not found:
            raise ModelNotFoundError(name, f"It is an alias, and none of its models is there: {reason}")
        return found

    def public_cards(self) -> list[ModelCard]:
        """Every model once, by its bare name where that is unambiguous, and every alias whose model is there."""
        several = sum(bool(cards) for cards in self.cards.values()) > 1
        shown = [card for engine, cards in self.cards.items() for card in self._shown(engine, cards, several=several)]
        return shown + [card for name in self.aliases if (card := self._alias_card(name)) is not None]

    def _shown(self, engine: str, cards: list[ModelCard], *, several: bool) -> Iterable[ModelCard]:
        for card in self._offered(engine, cards):
            qualified = Target(engine, card.id).qualified
            known = {name for name in _names(card) if self._means(name, engine)}
            extra = dict(card.extra) | ({"engine": engine} if several else {})
            alias = extra.get("alias")
            if isinstance(alias, str) and alias not in known:
                del extra["alias"]
            shown = card.id if card.id in known else qualified
            yield replace(card, id=shown, extra=extra, names=frozenset({qualified, *known}))

    def _offered(self, engine: str, cards: list[ModelCard]) -> list[ModelCard]:
        """Those that do not come through a gateway that is another engine here."""
        others = {gateway for name, listed in self.cards.items() if name != engine for gateway in _next_gateway(listed)}
        return [card for card in cards if others.isdisjoint(_way(card)[1:])]

    def _alias_card(self, name: str) -> ModelCard | None:
        try:
            first = self.groups(name)[0][0]
        except ModelNotFoundError:
            return None
        card = next(
            (card for card in self.cards.get(first.engine, ()) if first.model in {card.id, *_names(card)}), None
        )
        if card is None:
            card = ModelCard(name, 0, first.engine)
        extra = {key: value for key, value in card.extra.items() if key != "alias"}
        return replace(card, id=name, extra=extra | {"alias_of": first.qualified}, names=frozenset({name}))

    def _means(self, name: str, engine: str) -> bool:
        """Whether ``name`` by itself is that of a model of ``engine``."""
        return name not in self.aliases and [target.engine for target in self._bare.get(name, ())] == [engine]

    def _one(self, name: str) -> Target:
        engine, qualified, model = name.partition(QUALIFIER)
        if qualified:
            if engine not in self.cards:
                raise ModelNotFoundError(name, f"There is no engine '{engine}'; there are: {', '.join(self.cards)}.")
            # An engine may know more names than it lists (Ollama: a model without its tag), so it has the last word.
            return Target(engine, next((card.id for card in self.cards[engine] if model in card.names), model))
        targets = self._bare.get(name, [])
        if len(targets) > 1:
            names = ", ".join(target.qualified for target in targets)
            raise ModelNotFoundError(name, f"Several engines have it; say which: {names}.")
        if not targets:
            raise ModelNotFoundError(name)
        return targets[0]


def _names(card: ModelCard) -> set[str]:
    """What may be its bare name; where another gateway says which of its engines it means, the name is not bare here."""
    alias = card.extra.get("alias")
    names = {card.id, *card.names} | ({alias} if isinstance(alias, str) else set())
    return {name for name in names if QUALIFIER not in name}


def _next_gateway(listed: list[ModelCard]) -> list[str]:
    """The gateway that an engine is, by what it lists; empty where it is none."""
    return _way(listed[0])[:1] if listed else []


def _way(card: ModelCard) -> list[str]:
    """The gateways on the way to it, the next one first."""
    way = card.extra.get("via")
    return way if isinstance(way, list) else []
