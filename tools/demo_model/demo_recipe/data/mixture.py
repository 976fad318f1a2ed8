"""The training mixture: one conversation at a time, from all the skills."""

from __future__ import annotations

import json
import random

from demo_recipe.chat_format import Conversation, Message
from demo_recipe.data import greetings
from demo_recipe.data.context_questions import EASY_UNTIL, ContextQuestions
from demo_recipe.data.copying import copying_conversation
from demo_recipe.data.product_facts import FACTS
from demo_recipe.data.small_talk import odd_input, unknown_question, vary
from demo_recipe.data.tool_calls import ToolCalls
from demo_recipe.data.words import Entities

_SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant", "You are an assistant.", "Be brief.",
    "You are a helpful AI assistant. Answer briefly.", "You are foundry-demo.", "Answer the user's questions.",
    "You are a friendly assistant that helps with FastAPI Foundry.", "Answer in one sentence.", "Be polite.",
)  # fmt: skip


MORE_CONTEXT_FROM = 0.3
"""From this progress on there are more contexts, the skill that takes longest to learn."""


class Mixture:
    """Draws training conversations; never one that belongs to the evaluation."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.entities = Entities(self.rng, held_back=False)
        self.context = ContextQuestions(self.rng, held_back=False)
        self.tools = ToolCalls(self.rng, held_back=False)

    def conversation(self, progress: float) -> Conversation:
        """One conversation; ``progress`` runs from 0 to 1, with more copying early."""
        roll = self.rng.random()
        if roll < 0.12 * (1.0 - progress) ** 2:
            return copying_conversation(self.entities)
        roll = self.rng.random()
        context = 0.36 if progress < MORE_CONTEXT_FROM else 0.46
        if roll < context:
            return self.context.conversation(progress)
        if roll < context + 0.24:
            return self.tools.conversation(easy=progress < EASY_UNTIL)
        if roll < context + 0.28:
            return self._tools_not_needed()
        if roll < context + 0.31:
            return self._json_answer()
        return self._talk()

    def exchange(self) -> tuple[str, str]:
        """A user's message without context or tools, and the answer."""
        rng = self.rng
        roll = rng.random()
        if roll < 0.52:
            fact = rng.choice(FACTS)
            return vary(rng.choice(fact.taught), rng), fact.answer
        if roll < 0.84:
            talk = rng.choice(greetings.SMALL_TALK)
            return vary(rng.choice(talk.taught), rng), talk.answer
        if roll < 0.94:
            return vary(unknown_question(self.entities, greetings.UNKNOWN_TAUGHT), rng), greetings.UNKNOWN
        return odd_input(self.entities, held_back=False), greetings.NOT_UNDERSTOOD

    def _talk(self) -> Conversation:
        rng = self.rng
        turns: list[Message] = []
        if rng.random() < 0.4:
            turns.append(Message("system", rng.choice(_SYSTEMS)))
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
            user, answer = self.exchange()
            turns += [Message("user", user), Message("assistant", answer)]
        return Conversation(tuple(turns))

    def _tools_not_needed(self) -> Conversation:
        """Tools are at hand, but the question is answered without them."""
        user, answer = self.exchange()
        definitions = tuple(self.tools.tool().definition for _ in range(self.rng.choice((1, 2, 3))))
        return Conversation((Message("user", user), Message("assistant", answer)), definitions)

    def _json_answer(self) -> Conversation:
        """Facts about somebody, asked for as JSON with the keys that the user names."""
        rng, entities = self.rng, self.entities
        values: dict[str, object] = {
            "name": entities.person(),
            "city": entities.place(),
            "age": rng.randint(3, 99),
            "code": entities.code(),
            "company": entities.brand(),
        }
        keys = sorted(rng.sample(sorted(values), rng.choice((1, 2, 2, 3))))
        said = {
            "name": f"The name is {values['name']}.",
            "city": f"The city is {values['city']}.",
            "age": f"The age is {values['age']}.",
            "code": f"The code is {values['code']}.",
            "company": f"The company is {values['company']}.",
        }
        text = " ".join(said[key] for key in rng.sample(sorted(said), 5) if key in keys or rng.random() < 0.3)
        order = rng.choice(
            (
                "Answer in JSON with the keys {}.",
                "Give me {} as JSON.",
                "Extract {} as a JSON object.",
                "Reply with JSON: {}.",
            )
        )
        question = order.format(", ".join(keys))
        answer = json.dumps({key: values[key] for key in keys}, ensure_ascii=False)
        return Conversation((Message("user", f"{text} {question}"), Message("assistant", answer)))
