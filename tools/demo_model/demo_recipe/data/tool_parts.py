"""The parts that tools are composed of: actions, objects and parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from demo_recipe.data import words
from demo_recipe.data.open_sentences import ADJECTIVES, NOUNS
from demo_recipe.data.words import Entities, word_list

ACTIONS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "get",
        ("get", "show me", "give me", "tell me", "I need", "what is", "fetch"),
        ("Get", "Return", "Fetch", "Look up"),
    ),
    ("find", ("find", "look for", "search for", "I am looking for"), ("Find", "Search for", "Look for")),
    ("book", ("book", "reserve", "I want to book", "please book me"), ("Book", "Reserve", "Make a booking for")),
    ("set", ("set", "change", "adjust", "please set"), ("Set", "Change", "Adjust")),
    ("create", ("create", "make", "add", "set up"), ("Create", "Make", "Add")),
    ("delete", ("delete", "remove", "erase"), ("Delete", "Remove")),
    ("send", ("send", "please send", "mail"), ("Send", "Deliver")),
    ("order", ("order", "I want to order", "buy"), ("Order", "Buy", "Place an order for")),
    ("cancel", ("cancel", "call off", "I want to cancel"), ("Cancel", "Call off")),
    ("start", ("start", "begin", "launch", "switch on", "turn on"), ("Start", "Switch on")),
    ("stop", ("stop", "end", "switch off", "turn off"), ("Stop", "Switch off", "End")),
    ("check", ("check", "verify", "look at"), ("Check", "Verify", "Inspect")),
    ("list", ("list", "show me all", "give me a list of"), ("List", "Show all")),
    ("update", ("update", "change", "edit"), ("Update", "Edit", "Change")),
    ("play", ("play", "put on", "I want to hear"), ("Play", "Start to play")),
    ("calculate", ("calculate", "work out", "compute"), ("Calculate", "Compute")),
    ("open", ("open", "please open"), ("Open",)),
    ("schedule", ("schedule", "plan", "arrange"), ("Schedule", "Plan")),
    ("track", ("track", "follow", "where is"), ("Track", "Follow")),
    ("print", ("print", "please print"), ("Print",)),
    ("rent", ("rent", "hire", "I would like to rent"), ("Rent", "Hire")),
    ("translate", ("translate", "please translate"), ("Translate",)),
    ("convert", ("convert", "change"), ("Convert",)),
    ("measure", ("measure", "take a measurement of"), ("Measure",)),
)
"""Verb of the tool's name, verbs of the user, verbs of the description."""

OBJECTS = word_list(
    "weather forecast room table flight ticket lamp alarm timer note invoice report temperature playlist song parcel "
    "meeting price stock route train bus hotel car bike taxi email message reminder appointment event task contact "
    "customer order product account balance payment loan exchange_rate currency document file folder backup server "
    "device sensor heater light door window camera printer pump robot machine model user team project course lesson "
    "book film recipe restaurant pizza coffee museum concert match score news article page photo video translation "
    "calendar distance height weight budget discount coupon subscription licence permit contract sample test "
    "package shipment delivery warehouse inventory garden oven washing_machine vacuum thermostat radio channel"
)

LANGUAGES = word_list("French German Spanish Italian Polish Dutch Danish Swedish Turkish Greek Japanese Korean")


@dataclass(frozen=True)
class ParameterKind:
    """One kind of parameter: how it may be named, described, filled and said."""

    key: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    kind: str
    phrases: tuple[str, ...]
    make: Callable[[Entities], Any]
    choices: tuple[str, ...] = ()


def free_text(entities: Entities) -> str:
    """A few words as a user would write them."""
    rng = entities.rng
    noun = rng.choice(NOUNS)
    kind = rng.randrange(6)
    if kind == 0:
        return f"{rng.choice(ADJECTIVES)} {noun}"
    if kind == 1:
        return f"{noun} {rng.choice(words.THINGS)} {entities.invented(capital=False)}"
    if kind == 2:
        return f"the {noun} is {rng.choice(ADJECTIVES)}"
    if kind == 3:
        return f"meet {entities.person()} at the {noun}"
    if kind == 4:
        return f"{rng.choice(ADJECTIVES)} {noun} in {entities.place()}"
    return f"{noun} {entities.number()}"


def _decimal(entities: Entities) -> float:
    return entities.rng.randint(1, 99) + entities.rng.choice((0.5, 0.25, 0.1, 0.75))


def _integer(low: int, high: int) -> Callable[[Entities], int]:
    return lambda entities: entities.rng.randint(low, entities.rng.choice((low + 10, high)))


def _one_of(options: tuple[str, ...]) -> Callable[[Entities], str]:
    return lambda entities: entities.rng.choice(options)


PARAMETERS = (
    ParameterKind("place", ("city", "location", "town", "place", "destination"), ("The city", "Name of the town", "Where"), "string", ("in {v}", "for {v}", "near {v}"), Entities.place),
    ParameterKind("origin", ("origin", "from", "start", "departure"), ("Where it starts", "Place of departure"), "string", ("from {v}", "starting in {v}"), Entities.place),
    ParameterKind("target", ("to", "target", "destination_city", "arrival"), ("Where it goes", "Place of arrival"), "string", ("to {v}", "going to {v}"), Entities.place),
    ParameterKind("person", ("name", "person", "recipient", "customer", "contact_name"), ("The person's name", "Who it is for", "Full name"), "string", ("for {v}", "for the person {v}", "in the name of {v}"), Entities.person),
    ParameterKind("date", ("date", "day", "when", "due_date"), ("The date", "On which day"), "string", ("on {v}", "on the date {v}"), lambda e: e.date() if e.rng.random() < 0.6 else e.rng.choice(words.DAYS)),
    ParameterKind("time", ("time", "start_time", "hour", "at"), ("Time of day", "At what time, HH:MM"), "string", ("at {v}", "at {v} o'clock"), Entities.clock),
    ParameterKind("code", ("id", "code", "reference", "order_id", "number", "serial"), ("The reference", "Identifier", "The code"), "string", ("with the id {v}", "with code {v}", "number {v}", "{v}"), Entities.code),
    ParameterKind("text", ("text", "query", "message", "title", "subject", "content", "topic"), ("The text", "What to look for", "Its content"), "string", ('saying "{v}"', 'with the text "{v}"', "about {v}", 'called "{v}"', "'{v}'"), free_text),
    ParameterKind("brand", ("brand", "company", "artist", "product_name", "label"), ("The name", "Name of the company"), "string", ("from {v}", "by {v}", "of {v}"), Entities.brand),
    ParameterKind("language", ("language", "target_language", "lang"), ("The language",), "string", ("into {v}", "in {v}"), _one_of(tuple(LANGUAGES))),
    ParameterKind("people", ("people", "guests", "persons", "seats", "party_size"), ("How many people", "Number of guests"), "integer", ("for {v} people", "for {v} guests", "for {v} persons"), _integer(2, 20)),
    ParameterKind("nights", ("nights", "days", "duration_days"), ("How many nights", "Length of stay in days"), "integer", ("for {v} nights", "for {v} days"), _integer(2, 30)),
    ParameterKind("minutes", ("minutes", "duration", "duration_minutes", "length"), ("Duration in minutes", "How long, in minutes"), "integer", ("for {v} minutes", "lasting {v} minutes"), _integer(2, 120)),
    ParameterKind("amount", ("quantity", "count", "amount", "copies", "units"), ("How many", "The number of pieces"), "integer", ("{v} times", "{v} pieces", "in a quantity of {v}"), _integer(2, 500)),
    ParameterKind("degrees", ("degrees", "temperature", "target_temperature"), ("Temperature in degrees",), "integer", ("to {v} degrees", "at {v} degrees"), _integer(5, 90)),
    ParameterKind("percent", ("percent", "level", "volume", "brightness"), ("Level in percent",), "integer", ("to {v} percent", "at {v} percent"), _integer(1, 100)),
    ParameterKind("limit", ("limit", "max_results", "top"), ("Largest number of results",), "integer", ("with at most {v} results", "limited to {v}"), _integer(2, 50)),
    ParameterKind("price", ("price", "max_price", "amount_eur", "sum"), ("Amount in euros", "Highest price"), "number", ("for {v} euros", "for at most {v} euros"), _decimal),
    ParameterKind("weight", ("weight", "weight_kg", "mass"), ("Weight in kilograms",), "number", ("weighing {v} kilograms", "of {v} kg"), _decimal),
    ParameterKind("colour", ("color", "colour"), ("The colour",), "string", ("in {v}", "in the colour {v}"), _one_of(tuple(words.COLOURS))),
    ParameterKind("unit", ("unit", "units", "scale"), ("The unit",), "string", ("in {v}", "with {v} as the unit"), _one_of(("celsius", "fahrenheit")), ("celsius", "fahrenheit")),
    ParameterKind("priority", ("priority", "urgency", "importance"), ("How urgent it is",), "string", ("with {v} priority", "with priority {v}"), _one_of(("low", "medium", "high")), ("low", "medium", "high")),
    ParameterKind("size", ("size", "format"), ("The size",), "string", ("in size {v}", "in {v} size"), _one_of(("small", "medium", "large")), ("small", "medium", "large")),
    ParameterKind("mode", ("mode", "speed", "style"), ("How it is done",), "string", ("in {v} mode", "with mode {v}"), _one_of(("fast", "slow", "normal", "eco")), ("fast", "slow", "normal", "eco")),
    ParameterKind("room", ("room", "area", "zone_name"), ("The room",), "string", ("in the {v}", "for the {v}"), _one_of(("kitchen", "bedroom", "bathroom", "hall", "office", "garage", "cellar", "living room"))),
    ParameterKind("breakfast", ("breakfast", "insurance", "delivery", "sound", "backup", "details", "notification"), ("Whether it is included",), "boolean", ("with {name}", "without {name}"), lambda e: e.rng.random() < 0.5),
)  # fmt: skip
"""A boolean's phrases are said for true and for false; ``{name}`` is the parameter's name."""
