"""Turns the lists of greetings and product facts into user messages."""

from __future__ import annotations

import random
import string

from demo_recipe.data import greetings
from demo_recipe.data.words import ANIMALS, JOBS, THINGS, Entities, word_list

_LEADS = (
    "Please tell me: ", "Hey, ", "Quick question: ", "Can you tell me, ", "I have a question. ", "Hi! ", "So, ",
    "Tell me, ", "Excuse me, ", "Hello, ", "One more thing: ", "Question: ", "I would like to know: ", "Ok, ",
    "And ", "Please help. ", "Could you tell me ", "Do you know ", "Now ", "Hello! ",
)  # fmt: skip
_TAILS = (
    " Thanks!",
    " Please.",
    " please",
    " Can you tell me?",
    " I am new here.",
    " Thank you.",
    "?",
    " Be brief.",
    " Explain.",
)
_STOP_WORDS = frozenset(word_list("the a an is are do does i of to it can for my you me in on with"))


def vary(question: str, rng: random.Random) -> str:
    """Another way to type the same question: leads, tails, case, lost words, slips."""
    text = question
    roll = rng.random()
    if roll < 0.4:
        return text
    if rng.random() < 0.3:
        lead = rng.choice(_LEADS)
        text = lead + (text[0].lower() + text[1:] if rng.random() < 0.7 and not lead.endswith((". ", "! ")) else text)
    if rng.random() < 0.2:
        text += rng.choice(_TAILS)
    if rng.random() < 0.3:
        words = text.split(" ")
        kept = [w for w in words if w.lower() not in _STOP_WORDS or rng.random() < 0.6]
        text = " ".join(kept) or text
    if rng.random() < 0.25:
        text = text.lower()
    if rng.random() < 0.25:
        text = text.rstrip("?.!")
    if rng.random() < 0.12:
        text = _slip(text, rng)
    return text


def _slip(text: str, rng: random.Random) -> str:
    """One typing mistake."""
    if len(text) < 8:
        return text
    at = rng.randrange(1, len(text) - 2)
    kind = rng.random()
    if kind < 0.4:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if kind < 0.8:
        return text[:at] + text[at + 1 :]
    return text[:at] + rng.choice(string.ascii_lowercase) + text[at:]


def unknown_question(entities: Entities, templates: tuple[str, ...]) -> str:
    """A question that this model cannot know the answer to."""
    rng = entities.rng
    return rng.choice(templates).format(
        place=entities.place(),
        person=entities.person(),
        thing=rng.choice(THINGS),
        animal=rng.choice(ANIMALS),
        job=rng.choice(JOBS),
        invented=entities.invented(),
        n=rng.randint(2, 999),
        m=rng.randint(2, 99),
        year=rng.randint(1500, 2025),
    )


def odd_input(entities: Entities, *, held_back: bool) -> str:
    """Something that is no question: noise, code, other languages, long repetitions."""
    rng = entities.rng
    kind = rng.randrange(7)
    if kind == 0:
        return rng.choice(greetings.FOREIGN_HELD_BACK if held_back else greetings.FOREIGN_TAUGHT)
    if kind == 1:
        letters = string.ascii_lowercase + "     "
        return "".join(rng.choice(letters) for _ in range(rng.randint(3, 60))).strip() or "x"
    if kind == 2:
        return " ".join(entities.invented(capital=False) for _ in range(rng.randint(1, 25)))
    if kind == 3:
        return "".join(rng.choice(string.punctuation + "  ") for _ in range(rng.randint(1, 30))).strip() or "?"
    if kind == 4:
        return " ".join(str(rng.randint(0, 99999)) for _ in range(rng.randint(1, 20)))
    if kind == 5:
        return " ".join([entities.invented(capital=False)] * rng.randint(3, 60))
    return _code(entities)


def _code(entities: Entities) -> str:
    rng = entities.rng
    name, other = entities.invented(capital=False), entities.invented(capital=False)
    return rng.choice(
        (
            f"def {name}({other}):\n    return {other} + {rng.randint(1, 99)}",
            f"for {name} in range({rng.randint(2, 99)}):\n    print({name})",
            f"SELECT {name} FROM {other} WHERE id = {rng.randint(1, 999)};",  # noqa: S608 - sample text, never run
            f'<div class="{name}"><p>{other}</p></div>',
            f'{{"{name}": {rng.randint(1, 99)}, "{other}": [1, 2]}}',
            f"const {name} = ({other}) => {other} * {rng.randint(2, 9)};",
            f"#include <{name}.h>\nint main() {{ return {rng.randint(0, 9)}; }}",
        )
    )
