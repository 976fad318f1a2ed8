"""Kinds of facts that a passage can hold: how they are stated and how they are asked for.

A ``{slot}`` is filled by the maker of its name (see ``slot_values``); a digit at its end
only tells two slots of one maker apart. Templates after ``HELD`` belong to the evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from demo_recipe.data import words
from demo_recipe.data.words import Entities, word_list

HELD = "HELD"

_SLOT = re.compile(r"\{(\w+?)(\d?)\}")


@dataclass(frozen=True)
class FactKind:
    """Statements and questions about one relation, on both sides of the split."""

    name: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_statements: tuple[str, ...]
    held_questions: tuple[str, ...]

    def sides(self, *, held_back: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The statements and questions of one side."""
        if held_back:
            return self.held_statements or self.statements, self.held_questions
        return self.statements, self.questions


def slots_of(template: str) -> set[str]:
    """The slots of a template, digit included."""
    return {match[0] + match[1] for match in _SLOT.findall(template)}


def _kind(name: str, statements: str, questions: str) -> FactKind:
    def split(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        lines = [line.strip() for line in text.strip().splitlines()]
        at = lines.index(HELD) if HELD in lines else len(lines)
        return tuple(lines[:at]), tuple(lines[at + 1 :])

    told, asked = split(statements), split(questions)
    return FactKind(name, told[0], asked[0], told[1], asked[1])


def slot_values(entities: Entities) -> dict[str, Callable[[], str]]:
    """A maker for each slot name."""
    rng = entities.rng
    return {
        "place": entities.place,
        "person": entities.person,
        "brand": entities.brand,
        "code": entities.code,
        "n": entities.number,
        "clock": entities.clock,
        "date": entities.date,
        "day": lambda: rng.choice(words.DAYS),
        "month": lambda: rng.choice(words.MONTHS),
        "year": lambda: str(rng.randint(1600, 2030)),
        "colour": lambda: rng.choice(words.COLOURS),
        "thing": lambda: rng.choice(words.THINGS),
        "animal": lambda: rng.choice(words.ANIMALS),
        "material": lambda: rng.choice(words.MATERIALS),
        "job": lambda: rng.choice(words.JOBS),
        "site": lambda: rng.choice(_SITES),
        "device": lambda: rng.choice(_DEVICES),
        "unit": lambda: rng.choice(_UNITS),
        "team": lambda: rng.choice(_TEAMS),
    }


_SITES = word_list(
    "warehouse office factory library museum school station hospital harbour market theatre garden laboratory "
    "depot hotel farm workshop archive gallery bakery kitchen shop clinic studio"
)
_DEVICES = word_list(
    "server printer router scanner camera pump sensor heater lamp robot drill oven generator fan motor tractor "
    "elevator telescope kettle laptop"
)
_UNITS = word_list("kilograms metres litres hours euros kilometres watts degrees minutes grams")
_TEAMS = word_list("sales support design finance research logistics marketing security training quality planning legal")

KINDS = (
    _kind(
        "stock",
        """The {site} in {place} holds {n} {thing}.
        There are {n} {thing} in the {site} in {place}.
        The {place} {site} keeps {n} {thing}.
        {n} {thing} are stored at the {site} in {place}.
        HELD
        In {place} the {site} has {n} {thing}.""",
        """How many {thing} does the {site} in {place} hold?
        How many {thing} are in the {site} in {place}?
        What is the number of {thing} in the {place} {site}?
        How many {thing} are there in {place}?
        Tell me how many {thing} the {place} {site} has.
        {place}: how many {thing}?
        HELD
        What number of {thing} is kept at the {site} in {place}?
        Can you say how many {thing} the {site} in {place} holds?""",
    ),
    _kind(
        "opening",
        """The {site} in {place} opens at {clock}.
        Every {day} the {site} in {place} opens at {clock}.
        The {place} {site} opens its doors at {clock}.
        HELD
        At {clock} the {site} in {place} opens.""",
        """When does the {site} in {place} open?
        At what time does the {place} {site} open?
        What time does the {site} in {place} open?
        From when is the {site} in {place} open?
        Opening time of the {site} in {place}?
        HELD
        Can you tell me when the {site} in {place} opens?
        What is the opening time of the {site} in {place}?""",
    ),
    _kind(
        "closing",
        """The {site} in {place} closes at {clock}.
        The {site} in {place} is closed on {day}.
        On {day} the {place} {site} stays closed.""",
        """When does the {site} in {place} close?
        When is the {place} {site} closed?
        At what time or day is the {site} in {place} closed?
        HELD
        Tell me when the {site} in {place} is closed.""",
    ),
    _kind(
        "head",
        """{person} is the {job} of the {site} in {place}.
        The {job} of the {site} in {place} is {person}.
        {person} works as the {job} at the {place} {site}.
        HELD
        As {job} of the {site} in {place} serves {person}.""",
        """Who is the {job} of the {site} in {place}?
        Who works as the {job} at the {place} {site}?
        What is the name of the {job} of the {site} in {place}?
        Who is the {job} in {place}?
        HELD
        Which person is the {job} of the {site} in {place}?
        Name the {job} of the {site} in {place}.""",
    ),
    _kind(
        "role",
        """{person} is a {job} in {place}.
        {person} works in {place} as a {job}.
        {person} has been a {job} in {place} since {year}.""",
        """What does {person} do?
        What is {person}'s job?
        Where does {person} work?
        What is the profession of {person}?
        Who is {person}?
        HELD
        What kind of work does {person} do?
        In which town does {person} work?""",
    ),
    _kind(
        "birth",
        """{person} was born in {place}.
        {person} was born on {date}.
        {person} was born in {place} in {year}.""",
        """Where was {person} born?
        When was {person} born?
        What is the birthplace of {person}?
        What is {person}'s date of birth?
        HELD
        Where and when was {person} born?
        What do you know about the birth of {person}?""",
    ),
    _kind(
        "living",
        """{person} lives in {place}.
        {person} moved to {place} in {year}.
        The home of {person} is in {place}.""",
        """Where does {person} live?
        Where is the home of {person}?
        In which town does {person} live?
        HELD
        What is the home town of {person}?
        Which town does {person} live in?""",
    ),
    _kind(
        "pet",
        """{person} has a {colour} {animal} called {brand}.
        The {animal} of {person} is called {brand}.
        {person}'s {animal} is named {brand}.""",
        """What is the name of {person}'s {animal}?
        What is the {animal} of {person} called?
        How is {person}'s {animal} called?
        Which {animal} does {person} have?
        HELD
        Do you know the name of the {animal} that {person} has?
        What does {person} call the {animal}?""",
    ),
    _kind(
        "liking",
        """{person} likes {colour} {thing}.
        The favourite colour of {person} is {colour}.
        {person} prefers {colour} over {colour2}.""",
        """What does {person} like?
        What is the favourite colour of {person}?
        Which colour does {person} like?
        What is {person}'s favourite?
        HELD
        What colour does {person} like best?
        What is liked by {person}?""",
    ),
    _kind(
        "code",
        """The access code of the {site} in {place} is {code}.
        The {site} in {place} has the code {code}.
        {code} is the code of the {place} {site}.
        HELD
        The code for the {site} in {place} reads {code}.""",
        """What is the code of the {site} in {place}?
        What is the access code of the {place} {site}?
        Which code does the {site} in {place} have?
        Code of the {site} in {place}?
        HELD
        Please give me the code of the {site} in {place}.
        What code do I need for the {site} in {place}?""",
    ),
    _kind(
        "part",
        """The {device} {code} costs {n} euros.
        The price of the {device} {code} is {n} euros.
        The {device} {code} is sold for {n} euros.""",
        """How much does the {device} {code} cost?
        What is the price of the {device} {code}?
        What does {code} cost?
        How expensive is the {device} {code}?
        HELD
        For how much is the {device} {code} sold?
        Tell me the price of {code}.""",
    ),
    _kind(
        "weight",
        """The {brand} {device} weighs {n} kilograms.
        The weight of the {brand} {device} is {n} kilograms.
        The {brand} {device} has a weight of {n} kilograms.""",
        """How much does the {brand} {device} weigh?
        What is the weight of the {brand} {device}?
        How heavy is the {brand} {device}?
        What does the {brand} weigh?
        HELD
        How many kilograms is the {brand} {device}?
        Tell me how heavy the {brand} {device} is.""",
    ),
    _kind(
        "maker",
        """The {device} {code} is made by {brand}.
        {brand} makes the {device} {code}.
        {brand} is the maker of the {device} {code}.""",
        """Who makes the {device} {code}?
        Which company makes the {device} {code}?
        Who is the maker of {code}?
        By whom is the {device} {code} made?
        HELD
        What is the name of the maker of the {device} {code}?
        Which firm is behind the {device} {code}?""",
    ),
    _kind(
        "material",
        """The {site} in {place} is built of {material}.
        The {brand} {device} is made of {material}.
        The {site} in {place} was made from {material} and {material2}.""",
        """What is the {site} in {place} built of?
        What is the {site} in {place} made from?
        Which material was used for the {site} in {place}?
        HELD
        Of what material is the {site} in {place}?""",
    ),
    _kind(
        "founded",
        """{brand} was founded in {year} by {person}.
        {person} founded {brand} in {year}.
        The company {brand} was founded in {place} in {year}.
        {brand} was set up in {year} in {place}.""",
        """When was {brand} founded?
        In which year was {brand} founded?
        What is the founding year of {brand}?
        When did {brand} start?
        HELD
        What year saw the founding of {brand}?
        How long ago, in which year, was {brand} founded?""",
    ),
    _kind(
        "founder",
        """{brand} was founded by {person}.
        {person} is the founder of {brand}.
        The founder of {brand} is {person}.""",
        """Who founded {brand}?
        Who is the founder of {brand}?
        By whom was {brand} founded?
        What is the name of the founder of {brand}?
        HELD
        Which person founded {brand}?
        {brand} was founded by whom?""",
    ),
    _kind(
        "seat",
        """{brand} has its head office in {place}.
        The head office of {brand} is in {place}.
        {brand} is based in {place}.""",
        """Where is {brand} based?
        Where is the head office of {brand}?
        In which town is {brand}?
        Where does {brand} have its head office?
        HELD
        In which city is the head office of {brand}?
        Where can I find the office of {brand}?""",
    ),
    _kind(
        "staff",
        """{brand} has {n} employees.
        {n} people work at {brand}.
        {brand} employs {n} people.""",
        """How many employees does {brand} have?
        How many people work at {brand}?
        How many people does {brand} employ?
        How big is the staff of {brand}?
        HELD
        What is the number of employees of {brand}?
        How large is the staff at {brand}?""",
    ),
    _kind(
        "product",
        """{brand} makes {thing} and {thing2}.
        {brand} sells {colour} {thing}.
        {brand} produces {n} {thing} a year.""",
        """What does {brand} make?
        What does {brand} sell?
        What are the products of {brand}?
        What does {brand} produce?
        HELD
        Which goods come from {brand}?
        What can I buy from {brand}?""",
    ),
    _kind(
        "meeting",
        """The {team} team meets on {day} at {clock}.
        The meeting of the {team} team is on {day} at {clock}.
        On {day} at {clock} the {team} team meets.""",
        """When does the {team} team meet?
        When is the meeting of the {team} team?
        On which day does the {team} team meet?
        At what time is the {team} meeting?
        HELD
        Which day and time has the {team} team for its meeting?
        Tell me when the {team} team has its meeting.""",
    ),
    _kind(
        "lead",
        """{person} leads the {team} team.
        The {team} team is led by {person}.
        The head of the {team} team is {person}.""",
        """Who leads the {team} team?
        Who is the head of the {team} team?
        By whom is the {team} team led?
        Who runs the {team} team?
        HELD
        Which person leads the {team} team?
        Name the head of the {team} team.""",
    ),
    _kind(
        "project",
        """The project {brand} ends in {month} {year}.
        The deadline of the project {brand} is {date}.
        Project {brand} must be ready by {date}.""",
        """When does the project {brand} end?
        What is the deadline of the project {brand}?
        By when must {brand} be ready?
        When is {brand} due?
        HELD
        On what date does the project {brand} have to be finished?
        What is the due date of project {brand}?""",
    ),
    _kind(
        "budget",
        """The budget of the {team} team is {n} euros.
        The {team} team has a budget of {n} euros.
        {n} euros are the budget of the {team} team.""",
        """What is the budget of the {team} team?
        How much money does the {team} team have?
        How large is the budget of the {team} team?
        HELD
        How big a budget does the {team} team have?
        How many euros can the {team} team spend?""",
    ),
    _kind(
        "distance",
        """The distance from {place} to {place2} is {n} kilometres.
        {place} is {n} kilometres from {place2}.
        From {place} to {place2} it is {n} kilometres.""",
        """How far is it from {place} to {place2}?
        What is the distance from {place} to {place2}?
        How many kilometres is {place} from {place2}?
        HELD
        How far apart are {place} and {place2}?
        How long is the way from {place} to {place2}?""",
    ),
    _kind(
        "train",
        """The train to {place} leaves at {clock} from platform {n}.
        The train for {place} departs at {clock}.
        At {clock} the train to {place} leaves.""",
        """When does the train to {place} leave?
        At what time does the train for {place} depart?
        When is the train to {place}?
        HELD
        What time is the departure of the train to {place}?
        When can I take the train to {place}?""",
    ),
    _kind(
        "population",
        """{place} has {n} inhabitants.
        {n} people live in {place}.
        The population of {place} is {n}.""",
        """How many inhabitants does {place} have?
        How many people live in {place}?
        What is the population of {place}?
        HELD
        How large is the population of {place}?
        What number of people lives in {place}?""",
    ),
    _kind(
        "river",
        """The river {brand} is {n} kilometres long.
        The river {brand} flows through {place}.
        The river {brand} begins near {place} and ends in {place2}.""",
        """How long is the river {brand}?
        Where does the river {brand} flow?
        What do you know about the river {brand}?
        Where is the river {brand}?
        HELD
        Tell me something about the river {brand}.
        Through which town does the river {brand} flow?""",
    ),
    _kind(
        "mountain",
        """Mount {brand} is {n} metres high.
        The height of Mount {brand} is {n} metres.
        Mount {brand} rises to {n} metres.""",
        """How high is Mount {brand}?
        What is the height of Mount {brand}?
        How tall is Mount {brand}?
        HELD
        To what height does Mount {brand} rise?
        How many metres has Mount {brand}?""",
    ),
    _kind(
        "book",
        """The book {brand} was written by {person}.
        {person} wrote the book {brand} in {year}.
        {person} is the author of {brand}.""",
        """Who wrote the book {brand}?
        Who is the author of {brand}?
        By whom was {brand} written?
        What is the name of the author of {brand}?
        HELD
        Which author wrote {brand}?
        Tell me who wrote the book {brand}.""",
    ),
    _kind(
        "setting",
        """The default {team} limit is {n} {unit}.
        The setting {code} has the value {n}.
        The {device} limit is {n} {unit} by default.
        The maximum {device} time is {n} {unit}.""",
        """What is the default {team} limit?
        What is the value of the setting {code}?
        What is the {device} limit by default?
        What is the maximum {device} time?
        HELD
        Which value does the setting {code} have?
        How high is the {device} limit?
        How high is the default {team} limit?""",
    ),
    _kind(
        "command",
        """To restart the {device}, press the {colour} button for {n} seconds.
        To open the {site}, use the {colour} key.
        To clean the {device}, use {material} and warm water.
        The {device} is switched on with the {colour} button.""",
        """How do I restart the {device}?
        How do I open the {site}?
        How do I clean the {device}?
        How is the {device} switched on?
        HELD
        What must I do to restart the {device}?
        How can I clean the {device}?
        How can the {site} be opened?""",
    ),
    _kind(
        "warranty",
        """The warranty of the {brand} {device} is {n} months.
        The {brand} {device} has a warranty of {n} months.
        For the {brand} {device} there is a warranty of {n} months.""",
        """How long is the warranty of the {brand} {device}?
        What warranty does the {brand} {device} have?
        How many months of warranty has the {brand} {device}?
        HELD
        For how long is the {brand} {device} under warranty?
        What is the warranty period of the {brand} {device}?""",
    ),
    _kind(
        "contact",
        """The phone number of {person} is {n} {n2}.
        {person} can be reached at {n} {n2}.
        Call {person} on {n} {n2}.""",
        """What is the phone number of {person}?
        How can I reach {person}?
        What number do I call to reach {person}?
        HELD
        Under which number can {person} be reached?
        Give me the phone number of {person}.""",
    ),
    _kind(
        "order",
        """Order {code} contains {n} {thing} for {person}.
        Order {code} was sent to {place} on {date}.
        {person} placed order {code} on {date}.""",
        """What is in order {code}?
        Who placed order {code}?
        When was order {code} sent?
        Where was order {code} sent?
        What do you know about order {code}?
        HELD
        What does the text say about order {code}?
        Tell me about order {code}.""",
    ),
    _kind(
        "visit",
        """{person} visited {place} in {month} {year}.
        In {month} {year} {person} travelled to {place}.
        {person} went to {place} by train.""",
        """Where did {person} go?
        When did {person} visit {place}?
        Which town did {person} visit?
        Where did {person} travel?
        HELD
        What town did {person} travel to?
        Where has {person} been?""",
    ),
    _kind(
        "winner",
        """{person} won the {brand} prize in {year}.
        The {brand} prize went to {person}.
        The winner of the {brand} prize is {person}.""",
        """Who won the {brand} prize?
        Who is the winner of the {brand} prize?
        To whom did the {brand} prize go?
        HELD
        Which person won the {brand} prize?
        Who got the {brand} prize?""",
    ),
)
