"""Questions about numbered passages: quote the right sentence with its mark, or say no.

The answer is the sentence as it stands, a space and the mark of its passage; or
:data:`ABSENT` where no passage holds the fact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from demo_recipe.chat_format import Conversation, Message
from demo_recipe.data import open_sentences
from demo_recipe.data.fact_kinds import KINDS, FactKind, slot_values, slots_of
from demo_recipe.data.words import Entities

ABSENT = "The context does not say."
EASY_UNTIL = 0.12
"""Share of the training in which contexts are short and tools are few."""


@dataclass(frozen=True)
class Fact:
    """A sentence, a question that it answers, and what identifies the two."""

    sentence: str
    question: str
    kind: str
    asked: frozenset[str]
    told: frozenset[str]


@dataclass(frozen=True)
class ContextTask:
    """Numbered passages, a question, and the answer that is expected."""

    passages: tuple[str, ...]
    question: str
    answer: str


class ContextQuestions:
    """Composes tasks from one side of the split."""

    def __init__(self, rng: random.Random, *, held_back: bool) -> None:
        self.rng = rng
        self.held_back = held_back
        self.entities = Entities(rng, held_back=held_back)
        self.makers = slot_values(self.entities)

    def fact(self, kind: FactKind) -> Fact:
        """A new fact of this kind whose question can be answered by its sentence."""
        statements, questions = kind.sides(held_back=self.held_back)
        while True:
            statement, question = self.rng.choice(statements), self.rng.choice(questions)
            asked, told = slots_of(question), slots_of(statement)
            if asked <= told and _fits(statement, question):
                break
        values = {slot: self.makers[slot.rstrip("0123456789")]() for slot in sorted(told)}
        return Fact(
            sentence=_capital(statement.format(**values)),
            question=_capital(question.format(**values)),
            kind=kind.name,
            asked=frozenset(values[slot] for slot in asked),
            told=frozenset(values.values()),
        )

    def any_fact(self) -> Fact:
        """A fact of a random kind, or an open sentence."""
        if self.rng.random() < (0.0 if self.held_back else 0.3):
            sentence, question, asked = open_sentences.sentence_and_question(self.entities)
            return Fact(sentence, question, "open", asked, frozenset(sentence.rstrip(".").split()))
        return self.fact(self.rng.choice(KINDS))

    def task(self, passages: int, *, absent: bool, longest: int = 3) -> ContextTask:
        """A task with this many passages of 1 to ``longest`` sentences."""
        target = self.any_fact()
        groups = self._groups(target, passages, absent=absent, longest=longest)
        return ContextTask(_texts(groups), target.question, _answer(groups, target))

    def _groups(self, target: Fact, passages: int, *, absent: bool, longest: int) -> list[list[Fact]]:
        """Facts for each passage; none but the target answers the target's question."""
        sizes = [self.rng.choice((1, 1, 2, longest)) for _ in range(passages)]
        facts = [] if absent else [target]
        while len(facts) < sum(sizes):
            other = self._distractor(target)
            if not _answers(other, target):
                facts.append(other)
        self.rng.shuffle(facts)
        ends = [sum(sizes[: i + 1]) for i in range(passages)]
        return [facts[end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def more_questions(self, groups: list[list[Fact]], target: Fact, count: int) -> list[tuple[str, str]]:
        """Further questions about the same passages, and their answers."""
        facts = [fact for group in groups for fact in group]
        others = [fact for fact in facts if fact is not target]
        found = []
        for fact in self.rng.sample(others, min(count, len(others))):
            asked = self.any_fact() if self.rng.random() < 0.2 else fact
            if not any(_answers(other, asked) for other in facts if other is not asked):
                found.append((asked.question, _answer(groups, asked)))
        return found

    def _distractor(self, target: Fact) -> Fact:
        """Another fact; often of the same kind, so that only the entities differ."""
        if self.rng.random() < 0.35 and target.kind != "open":
            return self.fact(next(kind for kind in KINDS if kind.name == target.kind))
        return self.any_fact()

    def conversation(self, progress: float) -> Conversation:
        """A training conversation in a random layout: short ones first, some long ones last.

        Most go on with further questions about the same passages, because the passages
        are what a training step spends its time on.
        """
        rng = self.rng
        passages, longest = rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6)), 3
        if progress < EASY_UNTIL:
            passages, longest = rng.choice((1, 2, 2, 3)), 1
        elif progress > 0.5 and rng.random() < 0.12:
            passages, longest = rng.choice((3, 4, 5, 6)), rng.choice((4, 6, 8))
        target = self.any_fact()
        groups = self._groups(target, passages, absent=rng.random() < 0.2, longest=longest)
        task = ContextTask(_texts(groups), target.question, _answer(groups, target))
        turns = list(self.layout(task).messages)
        for question, answer in self.more_questions(groups, target, rng.choice((0, 1, 2, 3, 4))):
            turns += [Message("user", question), Message("assistant", answer)]
        return Conversation(tuple(turns))

    def layout(self, task: ContextTask) -> Conversation:
        """Put the passages into the system message or around the question."""
        rng = self.rng
        gap = rng.choice(("\n", "\n", "\n\n"))
        numbered = gap.join(f"[{i + 1}] {text}" for i, text in enumerate(task.passages))
        question = task.question
        if rng.random() < 0.15:
            question = question[0].lower() + question[1:].rstrip("?.")
        title, order = rng.choice(_TITLES), rng.choice(_ORDERS)
        answer = Message("assistant", task.answer)
        layout = rng.random()
        if layout < 0.35:
            order = order or rng.choice(_ORDERS[2:])
            parts = [order, f"{title}{numbered}"] if rng.random() < 0.7 else [f"{title}{numbered}", order]
            return Conversation((Message("system", "\n\n".join(parts)), Message("user", question), answer))
        asked = rng.choice(("", "", "Question: ")) + question
        parts = [f"{title}{numbered}", asked] if layout < 0.85 else [asked, f"{title}{numbered}"]
        if order and rng.random() < 0.6:
            parts.insert(0, order)
        elif order:
            turns = (Message("system", order), Message("user", "\n\n".join(parts)), answer)
            return Conversation(turns)
        if rng.random() < 0.2:
            turns = (Message("system", rng.choice(_SYSTEMS)), Message("user", "\n\n".join(parts)), answer)
            return Conversation(turns)
        return Conversation((Message("user", "\n\n".join(parts)), answer))


_TITLES = (
    "",
    "",
    "Context:\n",
    "Sources:\n",
    "Documents:\n",
    "Passages:\n",
    "Context: ",
    "Here is the context:\n",
    "Text:\n",
    "Information:\n\n",
)
_ORDERS = (
    "",
    "",
    "Answer from the numbered passages. Cite the passage as [n]. If they do not hold the answer, say so.",
    "Answer from the context and cite it.",
    "Use only the sources below. Cite them as [n].",
    "Answer the question from the passages. Mark the passage that you used.",
    "Use the following documents to answer. If the answer is not there, say that the context does not say.",
    "You answer questions from the given context only.",
    "Answer the question with the help of the numbered sources and give the number of the source.",
    "You are a helpful assistant. Answer from the context. Quote the source as [n].",
)  # fmt: skip
_SYSTEMS = ("You are a helpful assistant.", "You are a helpful assistant", "Be brief.", "You are an assistant.")


def _texts(groups: list[list[Fact]]) -> tuple[str, ...]:
    return tuple(" ".join(fact.sentence for fact in group) for group in groups)


def _answer(groups: list[list[Fact]], fact: Fact) -> str:
    for index, group in enumerate(groups):
        if fact in group:
            return f"{fact.sentence} [{index + 1}]"
    return ABSENT


def _answers(other: Fact, fact: Fact) -> bool:
    """Whether another fact would answer this fact's question too."""
    return other.kind == fact.kind and fact.asked <= other.told


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


_TIED_WORDS = (
    ("When", ("was born on", "year", "{year", "{clock", "{date", "{day", "{month")),
    ("Where", ("{place",)),
    ("In which town", ("{place",)),
    ("Which town", ("{place",)),
    ("What town", ("{place",)),
    ("How long is the river", ("kilometres long",)),
    ("Through which", ("through",)),
    ("What is the birthplace", ("{place",)),
    ("How do I restart", ("restart",)),
    ("What must I do to restart", ("restart",)),
    ("How do I open", ("open",)),
    ("How can the", ("open",)),
    ("How do I clean", ("clean",)),
    ("How can I clean", ("clean",)),
    ("How is the {device} switched", ("switched",)),
    ("What is the default {team}", ("{team}",)),
    ("How high is the default", ("{team}",)),
    ("What is the value of the setting", ("setting",)),
    ("What is the {device} limit", ("{device} limit",)),
    ("How high is the {device}", ("{device} limit",)),
    ("What is the maximum", ("maximum",)),
    ("Who placed", ("{person} placed",)),
    ("What is in order", ("contains",)),
    ("When was order", ("sent",)),
    ("Where was order", ("sent",)),
    ("Which colour", ("{colour",)),
    ("What is {person}'s date", ("{date",)),
)


def _fits(statement: str, question: str) -> bool:
    """Whether the statement holds what the question asks for."""
    return all(any(word in statement for word in needed) for start, needed in _TIED_WORDS if question.startswith(start))
