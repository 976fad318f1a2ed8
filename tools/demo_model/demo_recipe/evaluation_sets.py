"""The held-back prompts of the five skills, and what a right answer is.

Nothing here is seen in training: questions and small talk come from the ``held_back``
lists, contexts and tools from the held-back side of templates, names and tool names.
:func:`check_disjoint` asserts it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from demo_recipe.chat_format import Message
from demo_recipe.data import greetings
from demo_recipe.data.context_questions import ContextQuestions
from demo_recipe.data.everyday_tools import EVERYDAY_TOOLS
from demo_recipe.data.fact_kinds import KINDS
from demo_recipe.data.mixture import Mixture
from demo_recipe.data.product_facts import FACTS
from demo_recipe.data.small_talk import odd_input, unknown_question
from demo_recipe.data.tool_calls import ToolCalls
from demo_recipe.data.words import Entities

SEED = 20_000
MOST_ANSWER_TOKENS = 160
"""``max_tokens`` of every request; an answer that needs them all has not stopped."""


@dataclass(frozen=True)
class Case:
    """One request, and the check of the answer's choice (OpenAI's form)."""

    part: str
    request: dict[str, Any]
    is_right: Callable[[dict[str, Any]], bool]
    expected: str


@dataclass(frozen=True)
class Skill:
    """A skill and its cases."""

    name: str
    cases: list[Case] = field(default_factory=list)


def stopped(choice: dict[str, Any]) -> bool:
    """Whether the model ended its turn itself."""
    return choice["finish_reason"] in {"stop", "tool_calls"}


def text_of(choice: dict[str, Any]) -> str:
    """The text of the answer, empty where there is none."""
    return choice["message"].get("content") or ""


def says_all(expected: tuple[str, ...]) -> Callable[[dict[str, Any]], bool]:
    """Right when the answer stops and holds each string, whatever the case."""
    return lambda choice: stopped(choice) and all(e in text_of(choice).lower() for e in expected)


def says_exactly(expected: str) -> Callable[[dict[str, Any]], bool]:
    """Right when the answer stops and is this text and nothing else."""
    return lambda choice: stopped(choice) and text_of(choice).strip() == expected


def calls_exactly(name: str, arguments: dict[str, Any]) -> Callable[[dict[str, Any]], bool]:
    """Right when there is one tool call with this name and exactly these arguments."""

    def check(choice: dict[str, Any]) -> bool:
        calls = choice["message"].get("tool_calls") or []
        if len(calls) != 1 or not stopped(choice) or calls[0]["function"]["name"] != name:
            return False
        given = json.loads(calls[0]["function"]["arguments"])
        return bool(given == arguments) and json.dumps(given, sort_keys=True) == json.dumps(arguments, sort_keys=True)

    return check


def user(text: str) -> list[dict[str, Any]]:
    """Messages with one user turn."""
    return [{"role": "user", "content": text}]


def openai_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Text turns in OpenAI's form."""
    return [{"role": message.role, "content": message.content} for message in messages]


def greeting_skill() -> Skill:
    """Greets, says what it is, how to get a bigger model, and that it does not know."""
    entities = Entities(random.Random(SEED), held_back=True)
    cases = [
        Case(talk.key, {"messages": user(text)}, says_all(talk.expected), talk.answer)
        for talk in greetings.SMALL_TALK
        for text in talk.held_back
    ]
    for template in greetings.UNKNOWN_HELD_BACK:
        for _ in range(3):
            request = {"messages": user(unknown_question(entities, (template,)))}
            cases.append(Case("unknown", request, says_all(greetings.UNKNOWN_EXPECTED), greetings.UNKNOWN))
    return Skill("greeting", cases)


def product_skill() -> Skill:
    """Questions about the product in words that were not trained."""
    cases = [
        Case(fact.key, {"messages": user(question)}, says_all(fact.expected), fact.answer)
        for fact in FACTS
        for question in fact.held_back
    ]
    return Skill("product", cases)


def context_skill(count: int = 160) -> Skill:
    """Quote the right sentence with its mark; say so when no passage holds the fact."""
    rng = random.Random(SEED + 1)
    source = ContextQuestions(rng, held_back=True)
    cases = []
    for number in range(count):
        absent = number % 4 == 3
        task = source.task(1 + number % 5, absent=absent)
        messages = openai_messages(source.layout(task).messages[:-1])
        part = "absent" if absent else f"{len(task.passages)} passages"
        cases.append(Case(part, {"messages": messages}, says_exactly(task.answer), task.answer))
    return Skill("context", cases)


def tool_skill(count: int = 120) -> Skill:
    """Call the right tool with the right arguments; answer from a result; do without."""
    rng = random.Random(SEED + 2)
    source = ToolCalls(rng, held_back=True)
    cases = []
    for number in range(count):
        task = source.task(1 + number % 4)
        request = {"messages": user(task.user), "tools": list(task.tools)}
        check = calls_exactly(task.call.name, task.call.arguments)
        cases.append(Case(f"{1 + number % 4} tools", request, check, task.call.as_json()))
    cases += [_everyday_case(source, number) for number in range(count // 4)]
    for number in range(count // 6):
        cases += [_result_case(source, number), _no_tool_case(source, number)]
    return Skill("tools", cases)


def _everyday_case(source: ToolCalls, number: int) -> Case:
    """A tool that everybody knows, asked for in words that were not taught."""
    task = source.everyday_task(1 + number % 3)
    request = {"messages": user(task.user), "tools": list(task.tools)}
    return Case("everyday", request, calls_exactly(task.call.name, task.call.arguments), task.call.as_json())


def _result_case(source: ToolCalls, number: int) -> Case:
    """The tool has answered; its result is to be reported."""
    task = source.task(1 + number % 3)
    result, answer = source.result(task.thing)
    call = {"name": task.call.name, "arguments": json.dumps(task.call.arguments)}
    messages = [
        *user(task.user),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    ]
    return Case("result", {"messages": messages, "tools": list(task.tools)}, says_exactly(answer), answer)


def _no_tool_case(source: ToolCalls, number: int) -> Case:
    """A product question while tools are at hand: answered in text."""
    fact = FACTS[(number * 7) % len(FACTS)]
    tools = [source.tool().definition for _ in range(1 + number % 3)]
    request = {"messages": user(fact.held_back[0]), "tools": tools, "tool_choice": "auto"}
    return Case("no tool needed", request, says_all(fact.expected), fact.answer)


def stopping_skill(count: int = 120) -> Skill:
    """Ends its turn itself whatever comes in: noise, other languages, long histories."""
    rng = random.Random(SEED + 3)
    entities, held = Entities(rng, held_back=True), ContextQuestions(rng, held_back=True)
    mixture = Mixture(SEED + 4)
    cases = []
    for number in range(count):
        if number % 4 == 0:
            history: list[dict[str, Any]] = []
            for _ in range(rng.randint(2, 6)):
                asked, answered = mixture.exchange()
                history += [*user(asked), {"role": "assistant", "content": answered}]
            part, messages = "long history", [*history, *user(odd_input(entities, held_back=True))]
        elif number % 4 == 1:
            text = " ".join(held.any_fact().sentence for _ in range(rng.randint(10, 40)))
            part, messages = "long text", user(text)
        else:
            part, messages = "odd input", user(odd_input(entities, held_back=True))
        cases.append(
            Case(part, {"messages": messages}, lambda c: stopped(c) and bool(text_of(c)), "any text that ends")
        )
    return Skill("stopping", cases)


def all_skills() -> list[Skill]:
    """The five skills in the order of the model card."""
    check_disjoint()
    return [greeting_skill(), product_skill(), context_skill(), tool_skill(), stopping_skill()]


def check_disjoint() -> None:
    """Assert that no held-back question or template is also taught.

    Raises:
        ValueError: A question, statement or template stands on both sides.
    """
    taught = {_plain(q) for f in FACTS for q in f.taught} | {_plain(q) for t in greetings.SMALL_TALK for q in t.taught}
    taught |= {_plain(q) for q in greetings.UNKNOWN_TAUGHT} | {_plain(q) for q in greetings.FOREIGN_TAUGHT}
    held = {_plain(q) for f in FACTS for q in f.held_back} | {
        _plain(q) for t in greetings.SMALL_TALK for q in t.held_back
    }
    held |= {_plain(q) for q in greetings.UNKNOWN_HELD_BACK} | {_plain(q) for q in greetings.FOREIGN_HELD_BACK}
    both = taught & held
    for tool in EVERYDAY_TOOLS:
        both |= {_plain(saying) for saying in tool.taught} & {_plain(saying) for saying in tool.held_back}
    for kind in KINDS:
        both |= set(kind.questions) & set(kind.held_questions)
        both |= set(kind.statements) & set(kind.held_statements)
    if both:
        raise ValueError(f"taught and held back: {sorted(both)}")


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum() or letter in "{} ").strip()
