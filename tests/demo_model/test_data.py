# ruff: noqa: PLC0415 - the recipe is on the path only while one of these tests runs
"""The data of the demonstration model: what is held back never comes up in training."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RECIPE = Path(__file__).resolve().parents[2] / "tools" / "demo_model"


@pytest.fixture(autouse=True)
def recipe_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(RECIPE))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "demo_recipe"]:
        del sys.modules[name]


def training_turns(count: int) -> list[str]:
    from demo_recipe.data.mixture import Mixture

    mixture = Mixture(seed=5)
    conversations = [mixture.conversation(number / count) for number in range(count)]
    return [m.content for c in conversations for m in c.messages if m.role == "user"]


def test_no_question_or_template_is_on_both_sides() -> None:
    from demo_recipe.evaluation_sets import check_disjoint

    check_disjoint()


def test_training_never_asks_a_held_back_question_as_it_stands() -> None:
    from demo_recipe.evaluation_sets import all_skills

    held = {
        case.request["messages"][-1]["content"]
        for skill in all_skills()
        if skill.name in {"product", "context", "tools"}
        for case in skill.cases
        if case.part != "result"
    }
    assert not held & set(training_turns(4000))


def test_no_invented_word_is_on_both_sides() -> None:
    from demo_recipe.data.words import Entities

    taught = Entities(random.Random(1), held_back=False)
    held_back = Entities(random.Random(2), held_back=True)
    assert not {taught.invented() for _ in range(3000)} & {held_back.invented() for _ in range(3000)}


def test_every_skill_has_at_least_a_hundred_cases() -> None:
    from demo_recipe.evaluation_sets import all_skills

    assert {skill.name: len(skill.cases) >= 100 for skill in all_skills()} == {
        "greeting": True,
        "product": True,
        "context": True,
        "tools": True,
        "stopping": True,
    }


def test_quoted_sentence_stands_in_the_passage_that_is_marked() -> None:
    from demo_recipe.data.context_questions import ContextQuestions

    source = ContextQuestions(random.Random(3), held_back=True)
    for _ in range(200):
        task = source.task(4, absent=False)
        sentence, mark = task.answer.rsplit(" ", 1)
        assert sentence in task.passages[int(mark.strip("[]")) - 1]


def test_data_depends_on_the_seed_alone() -> None:
    assert training_turns(50) == training_turns(50)
