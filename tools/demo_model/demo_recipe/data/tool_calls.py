"""Conversations with tools: call the right one, answer from its result, or do without.

A tool is *held back* for the evaluation when its name (verb and object) is, see
``words.is_held_back``; so is every entity that fills an argument.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from demo_recipe.chat_format import Conversation, Message, ToolCall
from demo_recipe.data import words
from demo_recipe.data.everyday_tools import EVERYDAY_TOOLS
from demo_recipe.data.tool_parts import ACTIONS, OBJECTS, PARAMETERS, ParameterKind
from demo_recipe.data.words import Entities

LEADS = (
    "",
    "",
    "",
    "",
    "Please ",
    "Can you ",
    "Could you ",
    "Hi, ",
    "Hello! ",
    "I need you to ",
    "Now ",
    "Hey, please ",
)
EVERYDAY_SHARE = 0.2
"""Share of the well-known tools in training."""
HELD_BACK_LEADS = ("", "Would you please ", "Good morning, ", "Kindly ", "I would like you to ")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a concrete tool."""

    name: str
    source: ParameterKind


@dataclass(frozen=True)
class Tool:
    """A concrete tool and how a user speaks of it: in ``sayings``, or in sentences composed of its parts."""

    name: str
    verb: str
    said_verbs: tuple[str, ...]
    thing: str
    definition: dict[str, Any]
    parameters: tuple[Parameter, ...]
    sayings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolTask:
    """What the user says, the tools at hand, and the call that is expected."""

    tools: tuple[dict[str, Any], ...]
    user: str
    call: ToolCall
    thing: str


class ToolCalls:
    """Composes tasks from one side of the split."""

    def __init__(self, rng: random.Random, *, held_back: bool) -> None:
        self.rng = rng
        self.held_back = held_back
        self.entities = Entities(rng, held_back=held_back)

    def tool(self, *, parameters: int | None = None) -> Tool:
        """A tool with a name of our side and 0 to 4 parameters."""
        rng = self.rng
        while True:
            verb, said, told = rng.choice(ACTIONS)
            thing = rng.choice(OBJECTS) if rng.random() < 0.8 else self.entities.invented(capital=False)
            if self.entities.allowed(f"{verb}_{thing}"):
                break
        count = rng.choice((0, 1, 1, 2, 2, 2, 3, 3, 4)) if parameters is None else parameters
        chosen: list[Parameter] = []
        for source in rng.sample(PARAMETERS, len(PARAMETERS)):
            name = rng.choice(source.names)
            if len(chosen) < count and name not in {p.name for p in chosen}:
                chosen.append(Parameter(name, source))
        spoken = thing.replace("_", " ")
        name = f"{verb}_{thing}"
        if rng.random() < 0.12:
            first, *rest = name.split("_")
            name = first + "".join(part.capitalize() for part in rest)
        definition = self._definition(name, f"{rng.choice(told)} {_article(spoken)} {spoken}", chosen)
        return Tool(name, verb, said, spoken, definition, tuple(chosen))

    def everyday_tool(self) -> Tool:
        """A well-known tool under one of its usual names."""
        rng = self.rng
        kind = rng.choice(EVERYDAY_TOOLS)
        name = rng.choice(kind.names)
        parameters = tuple(Parameter(rng.choice(slot.names), slot) for slot in kind.slots)
        told = rng.choice(kind.descriptions)
        definition = self._definition(name, told, [*parameters])
        if kind.extra is not None and rng.random() < 0.3:
            extra = self._definition(name, told, [Parameter(rng.choice(kind.extra.names), kind.extra)])
            definition["function"]["parameters"]["properties"] |= extra["function"]["parameters"]["properties"]
        sayings = kind.held_back if self.held_back else kind.taught
        return Tool(name, name, ("use",), kind.thing, definition, parameters, sayings)

    def _definition(self, name: str, told: str, parameters: list[Parameter]) -> dict[str, Any]:
        rng = self.rng
        described = rng.random() < 0.6
        properties: dict[str, Any] = {}
        for parameter in parameters:
            schema: dict[str, Any] = {"type": parameter.source.kind}
            if described:
                schema["description"] = rng.choice(parameter.source.descriptions)
            if parameter.source.choices:
                schema["enum"] = list(parameter.source.choices)
            properties[parameter.name] = schema
        body: dict[str, Any] = {"type": "object", "properties": properties}
        if parameters and rng.random() < 0.8:
            body["required"] = [p.name for p in parameters]
        function: dict[str, Any] = {"name": name}
        if rng.random() < 0.9:
            function["description"] = told + rng.choice(("", "."))
        function["parameters"] = body
        return {"type": "function", "function": function}

    def toolbox(self, count: int, *, everyday: float = 0.0) -> list[Tool]:
        """Tools for different things; ``everyday`` is the probability that one of them is well known."""
        tools: list[Tool] = []
        while len(tools) < count:
            tool = self.everyday_tool() if self.rng.random() < everyday else self.tool()
            if tool.thing not in {other.thing for other in tools}:
                tools.append(tool)
        return tools

    def task(self, count: int) -> ToolTask:
        """A request that fits exactly one of ``count`` tools."""
        tools = self.toolbox(count)
        wanted = self.rng.choice(tools)
        user, call = self.request(wanted)
        return ToolTask(tuple(tool.definition for tool in tools), user, call, wanted.thing)

    def request(self, tool: Tool) -> tuple[str, ToolCall]:
        """What a user says to have this tool called, and the call."""
        rng = self.rng
        if tool.sayings:
            return self._everyday_request(tool)
        arguments: dict[str, Any] = {}
        phrases: list[str] = []
        for parameter in tool.parameters:
            optional = "required" not in tool.definition["function"]["parameters"]
            if optional and rng.random() < 0.3:
                continue
            value = parameter.source.make(self.entities)
            arguments[parameter.name] = value
            phrases.append(_phrase(parameter, value, rng))
        rng.shuffle(phrases)
        verb = rng.choice(tool.said_verbs)
        parts = [verb, f"{rng.choice(('the', _article(tool.thing)))} {tool.thing}", *phrases]
        text = " ".join(parts)
        lead = rng.choice(HELD_BACK_LEADS if self.held_back else LEADS)
        sentence = lead + text
        sentence = sentence[0].upper() + sentence[1:]
        question = verb.startswith(("what", "where")) or lead.startswith(("Can", "Could", "Would"))
        sentence += ("?" if question else rng.choice((".", "", "!", ", please."))) if rng.random() < 0.9 else ""
        return sentence, ToolCall(tool.name, arguments)

    def _everyday_request(self, tool: Tool) -> tuple[str, ToolCall]:
        rng = self.rng
        values = [parameter.source.make(self.entities) for parameter in tool.parameters]
        sentence = rng.choice(tool.sayings).format(*values)
        if not self.held_back and rng.random() < 0.15:
            sentence = sentence.rstrip("?.")
        arguments = {parameter.name: value for parameter, value in zip(tool.parameters, values, strict=True)}
        return sentence, ToolCall(tool.name, arguments)

    def everyday_task(self, count: int) -> ToolTask:
        """A request for a well-known tool among ``count`` tools."""
        wanted = self.everyday_tool()
        tools = [wanted, *(tool for tool in self.toolbox(count) if tool.thing != wanted.thing)][:count]
        self.rng.shuffle(tools)
        user, call = self.request(wanted)
        return ToolTask(tuple(tool.definition for tool in tools), user, call, wanted.thing)

    def result(self, thing: str) -> tuple[str, str]:
        """A tool's result and the sentence that reports it."""
        rng, entities = self.rng, self.entities
        kind = rng.randrange(6)
        if kind == 0:
            key, value = rng.choice(_RESULT_KEYS), self._value()
            return _json({key: value}), f"The {key.replace('_', ' ')} is {_said(value)}."
        if kind == 1:
            first, second = rng.sample(_RESULT_KEYS, 2)
            one, two = self._value(), self._value()
            text = f"The {first.replace('_', ' ')} is {_said(one)} and the {second.replace('_', ' ')} is {_said(two)}."
            return _json({first: one, second: two}), text
        if kind == 2:
            code = entities.code()
            return _json({"status": "ok", "id": code}), f"Done. The id is {code}."
        if kind == 3:
            fault = rng.choice(("not found", "no access", "out of stock", "not available", "wrong date", "time-out"))
            what = rng.choice((thing, entities.place(), entities.invented()))
            return _json({"error": f"{what} {fault}"}), f"The tool reports an error: {what} {fault}."
        if kind == 4:
            sentence = rng.choice(_RESULT_SENTENCES).format(
                thing=thing, code=entities.code(), place=entities.place(), n=entities.number(), person=entities.person()
            )
            return sentence, sentence
        value = self._value()
        return _json({"result": value}), f"The result is {_said(value)}."

    def _value(self) -> Any:
        rng, entities = self.rng, self.entities
        return rng.choice(
            (
                lambda: rng.randint(0, 9999),
                lambda: rng.randint(1, 99) + 0.5,
                entities.place,
                entities.person,
                entities.code,
                entities.clock,
                lambda: rng.choice(words.COLOURS),
                entities.invented,
            )
        )()

    def conversation(self, *, easy: bool = False) -> Conversation:
        """A training conversation: calls, often with their results and answers."""
        rng = self.rng
        if rng.random() < 0.2 and not easy:
            return self.chain()
        tools = self.toolbox(rng.choice((1, 1, 1, 2) if easy else (1, 1, 2, 2, 3, 3, 4)), everyday=EVERYDAY_SHARE)
        turns: list[Message] = []
        for _ in range(rng.choice((1, 2, 2, 3))):
            turns += self._exchange(rng.choice(tools))
        if rng.random() < 0.4:
            turns = turns[: 1 + max(i for i, turn in enumerate(turns) if turn.calls)]
        if rng.random() < 0.2:
            turns.insert(0, Message("system", rng.choice(_SYSTEMS)))
        return Conversation(tuple(turns), tuple(tool.definition for tool in tools))

    def _exchange(self, tool: Tool) -> list[Message]:
        user, call = self.request(tool)
        result, answer = self.result(tool.thing)
        return [
            Message("user", user),
            Message("assistant", "", (call,)),
            Message("tool", result),
            Message("assistant", answer),
        ]

    def chain(self) -> Conversation:
        """Two or three calls; each later one takes a value that the earlier one returned."""
        rng = self.rng
        steps = rng.choice((2, 2, 3))
        tools, turns, spoken = [], [], []
        carried: tuple[str, Any] | None = None
        used: set[str] = set()
        for step in range(steps):
            tool = self._chain_tool(carried, used)
            used.add(tool.thing)
            tools.append(tool.definition)
            if carried is None:
                text, call = self.request(tool)
                spoken.append(text.rstrip(".!?"))
            else:
                call = ToolCall(tool.name, {tool.parameters[0].name: carried[1]})
                spoken.append(
                    f"{rng.choice(tool.said_verbs[:1])} the {tool.thing} with that {carried[0].replace('_', ' ')}"
                )
            turns.append(Message("assistant", "", (call,)))
            if step < steps - 1:
                carried = (rng.choice(_CARRIED), self.entities.code() if rng.random() < 0.6 else rng.randint(10, 9999))
                turns.append(Message("tool", _json({carried[0]: carried[1]})))
        result, answer = self.result("tool")
        turns += [Message("tool", result), Message("assistant", answer)]
        joint = rng.choice((", then ", " and then ", ". Then ", ", and after that "))
        rng.shuffle(tools)
        return Conversation((Message("user", joint.join(spoken) + "."), *turns), tuple(tools))

    def _chain_tool(self, carried: tuple[str, Any] | None, used: set[str]) -> Tool:
        while True:
            tool = self.tool(parameters=self.rng.choice((1, 1, 2)) if carried is None else 0)
            if tool.thing not in used:
                break
        if carried is None:
            return tool
        kind = "integer" if isinstance(carried[1], int) else "string"
        source = ParameterKind(carried[0], (carried[0],), ("",), kind, ("",), lambda _: carried[1])
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {carried[0]: {"type": kind}},
            "required": [carried[0]],
        }
        tool.definition["function"]["parameters"] = schema
        return Tool(
            tool.name, tool.verb, tool.said_verbs, tool.thing, tool.definition, (Parameter(carried[0], source),)
        )


_CARRIED = (
    "customer_id",
    "order_id",
    "ticket_id",
    "code",
    "reference",
    "account",
    "id",
    "token",
    "number",
    "key",
    "user_id",
)
_RESULT_KEYS = (
    "temperature", "price", "status", "total", "distance", "name", "city", "time", "colour", "balance", "score", "room",
    "platform", "seat", "weight", "owner", "address", "duration", "level", "speed", "stock", "answer", "rate", "wind_speed",
    "next_stop", "delivery_day", "humidity", "capital", "driver", "gate",
)  # fmt: skip
_RESULT_SENTENCES = (
    "The {thing} is ready in {place}.",
    "Your {thing} has the number {code}.",
    "There are {n} results for {thing}.",
    "{person} has the {thing}.",
    "It is {n} degrees in {place}.",
    "The {thing} arrives at {place} tomorrow.",
    "Booked under the reference {code}.",
)
_SYSTEMS = (
    "You are a helpful assistant.",
    "You can use tools.",
    "Use the tools when they help.",
    "You are an assistant.",
)


def _phrase(parameter: Parameter, value: Any, rng: random.Random) -> str:
    if parameter.source.kind == "boolean":
        return parameter.source.phrases[0 if value else 1].format(name=parameter.name.replace("_", " "))
    if rng.random() < 0.12:
        return f"with {parameter.name.replace('_', ' ')} {value}"
    return rng.choice(parameter.source.phrases).format(v=value)


def _said(value: Any) -> str:
    return str(value)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeio" else "a"


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
