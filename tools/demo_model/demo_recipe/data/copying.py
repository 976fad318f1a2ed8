"""Plain copying, for the first part of the training: repeat this, which one comes next."""

from __future__ import annotations

from demo_recipe.chat_format import Conversation, Message
from demo_recipe.data.open_sentences import sentence_and_question
from demo_recipe.data.words import Entities

_ORDERS = ("Repeat: ", "Say this again: ", "Copy this: ", "Repeat after me: ", "Please repeat the text: ")


def copying_conversation(entities: Entities) -> Conversation:
    """Repeat a text, or the line with a given number."""
    rng = entities.rng
    lines = [_line(entities) for _ in range(rng.randint(1, 5))]
    if len(lines) == 1:
        return Conversation((Message("user", rng.choice(_ORDERS) + lines[0]), Message("assistant", lines[0])))
    chosen = rng.randrange(len(lines))
    listed = "\n".join(f"[{i + 1}] {line}" for i, line in enumerate(lines))
    order = rng.choice((f"Repeat passage [{chosen + 1}].", f"What does [{chosen + 1}] say?", f"Quote [{chosen + 1}]."))
    return Conversation(
        (Message("user", f"{listed}\n\n{order}"), Message("assistant", f"{lines[chosen]} [{chosen + 1}]"))
    )


def _line(entities: Entities) -> str:
    rng = entities.rng
    if rng.random() < 0.5:
        return sentence_and_question(entities)[0]
    makers = (entities.invented, entities.number, entities.code, entities.person, entities.place, entities.date)
    return " ".join(rng.choice(makers)() for _ in range(rng.randint(2, 8)))
