"""Which engines answer for the name of a model: qualified names, bare names, aliases of one's own."""

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
        for name, listed in self.cards.items():
            for card in listed:
                for known in _names(card):
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
        for card in cards:
            own = Target(engine, card.id)
            hidden = len(self._bare.get(card.id, ())) > 1 or card.id in self.aliases
            alias = card.extra.get("alias")
            names = {own.qualified, *(name for name in _names(card) if not self._is_ambiguous(name))}
            extra = dict(card.extra) | ({"engine": engine} if several else {})
            if isinstance(alias, str) and self._is_ambiguous(alias):
                extra.pop("alias", None)
            yield replace(card, id=own.qualified if hidden else card.id, extra=extra, names=frozenset(names))

    def _alias_card(self, name: str) -> ModelCard | None:
        try:
            first = self.groups(name)[0][0]
        except ModelNotFoundError:
            return None
        card = next((card for card in self.cards.get(first.engine, ()) if first.model in _names(card)), None)
        if card is None:
            card = ModelCard(name, 0, first.engine)
        extra = {key: value for key, value in card.extra.items() if key != "alias"}
        return replace(card, id=name, extra=extra | {"alias_of": first.qualified}, names=frozenset({name}))

    def _is_ambiguous(self, name: str) -> bool:
        return len(self._bare.get(name, ())) > 1 or name in self.aliases

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
    alias = card.extra.get("alias")
    return {card.id, *card.names} | ({alias} if isinstance(alias, str) else set())
