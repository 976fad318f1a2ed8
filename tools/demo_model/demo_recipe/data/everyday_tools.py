"""The tools that people try first, and how they ask for them: weather, time, search, sums, mail, timers.

A saying holds ``{0}``, ``{1}`` for the values of the slots, in their order.
"""

from __future__ import annotations

from dataclasses import dataclass

from demo_recipe.data.tool_parts import ParameterKind, free_text
from demo_recipe.data.words import Entities, word_list

CURRENCIES = tuple(word_list("EUR USD GBP CHF JPY SEK PLN CAD AUD NOK DKK CZK"))
ROOMS = (*word_list("kitchen bedroom bathroom hall office garage cellar attic hallway"), "living room")


@dataclass(frozen=True)
class EverydayTool:
    """A well-known tool: its usual names, its slots, and what users say on either side of the split.

    Attributes:
        extra: A parameter that a definition may have, and that no saying fills.
    """

    thing: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    slots: tuple[ParameterKind, ...]
    taught: tuple[str, ...]
    held_back: tuple[str, ...]
    extra: ParameterKind | None = None


def _expression(entities: Entities) -> str:
    rng = entities.rng
    first, second = rng.randint(2, rng.choice((20, 999))), rng.randint(2, rng.choice((20, 99)))
    text = f"{first} {rng.choice('+-*/')} {second}"
    return text if rng.random() < 0.75 else f"{text} {rng.choice('+-*')} {rng.randint(2, 30)}"


def _slot(key: str, names: str, description: str, kind: str, make: object) -> ParameterKind:
    return ParameterKind(key, tuple(names.split()), (description,), kind, (), make)  # type: ignore[arg-type]


_CITY = _slot("city", "city city location place town", "The city", "string", Entities.place)
_UNIT = ParameterKind(
    "unit",
    ("unit", "units"),
    ("The unit of the temperature",),
    "string",
    (),
    lambda _: "celsius",
    ("celsius", "fahrenheit"),
)
_QUERY = _slot("query", "query query q text search_term", "What to search for", "string", free_text)
_EXPRESSION = _slot("expression", "expression expression formula input", "The sum to work out", "string", _expression)
_MINUTES = _slot(
    "minutes", "minutes minutes duration duration_minutes", "Minutes", "integer", lambda e: e.rng.randint(2, 120)
)
_AMOUNT = _slot(
    "amount", "amount amount value", "How much", "integer", lambda e: e.rng.randint(2, e.rng.choice((50, 999)))
)
_FROM = _slot(
    "from",
    "from_currency from source base",
    "Currency to convert from",
    "string",
    lambda e: e.rng.choice(CURRENCIES[:6]),
)
_TO = _slot("to", "to_currency to target", "Currency to convert to", "string", lambda e: e.rng.choice(CURRENCIES[6:]))
_PERSON = _slot("to", "to recipient name", "Who gets it", "string", Entities.person)
_TEXT = _slot("text", "text message subject body", "What it says", "string", free_text)
_CLOCK = _slot("time", "time at when", "At what time", "string", Entities.clock)
_ROOM = _slot("room", "room room area", "Which room", "string", lambda e: e.rng.choice(ROOMS))
_BRAND = _slot("company", "company symbol name", "The company", "string", Entities.brand)
_FIRST = _slot("a", "a x first", "The first number", "integer", lambda e: e.rng.randint(2, 999))
_SECOND = _slot("b", "b y second", "The second number", "integer", lambda e: e.rng.randint(2, 99))

EVERYDAY_TOOLS = (
    EverydayTool(
        "weather",
        ("get_weather", "get_weather", "get_current_weather", "weather", "getWeather", "lookup_weather", "get_forecast"),
        ("Get the weather of a city", "Get the current weather in a given location", "The weather in a place"),
        (_CITY,),
        (
            "What is the weather in {0}?", "What is the weather in {0}?", "How is the weather in {0}?",
            "What is the weather like in {0} today?", "What's the weather in {0}?", "Is it raining in {0}?",
            "How warm is it in {0}?", "Tell me the weather in {0}.", "Weather in {0}", "What is the temperature in {0}?",
            "Will it rain in {0} tomorrow?", "Show me the weather for {0}", "Get the weather for {0}.", "Is it cold in {0}?",
        ),
        (
            "What's the weather like in {0} right now?", "How is it outside in {0}?", "Is it sunny in {0}?",
            "Could you check the weather in {0}?", "I am travelling to {0}. What is the weather there?",
        ),
        _UNIT,
    ),
    EverydayTool(
        "time",
        ("get_time", "get_current_time", "current_time", "get_local_time", "clock", "getTime"),
        ("Get the current time in a city", "Return the local time", "What time it is in a place"),
        (_CITY,),
        (
            "What time is it in {0}?", "What is the time in {0}?", "Tell me the current time in {0}.", "Time in {0}?",
            "What time is it in {0} now?", "Show me the time in {0}", "Is it night in {0}?", "The time in {0}, please.",
        ),
        ("How late is it in {0}?", "What is the local time in {0}?", "Can you tell me what time it is in {0}?"),
    ),
    EverydayTool(
        "search",
        ("search", "web_search", "search_web", "search_documents", "internet_search", "lookup"),
        ("Search the web", "Search for documents", "Find pages about something"),
        (_QUERY,),
        (
            "Search for {0}.", "Search the web for {0}", "Look up {0}.", "Find out about {0}.", "Search: {0}",
            "Please search for {0}.", "Find pages about {0}", "Look for {0} on the web.", "What do you find about {0}?",
        ),
        ("Can you search for {0}?", "Do a search for {0}.", "Look on the internet for {0}."),
    ),
    EverydayTool(
        "sum",
        ("calculator", "calculate", "evaluate", "math", "compute"),
        ("Evaluate an expression", "Calculate the result of a formula", "A calculator"),
        (_EXPRESSION,),
        (
            "What is {0}?", "Calculate {0}", "How much is {0}?", "Compute {0}.", "{0} = ?", "Please calculate {0}.",
            "Tell me what {0} is.", "What is the result of {0}?",
        ),
        ("Work out {0} for me.", "Can you calculate {0}?", "How many is {0}?"),
    ),
    EverydayTool(
        "addition",
        ("add", "add_numbers", "sum", "plus", "addNumbers"),
        ("Add two numbers", "Return the sum of two numbers"),
        (_FIRST, _SECOND),
        ("Add {0} and {1}.", "What is {0} plus {1}?", "How much is {0} and {1}?", "Add {0} to {1}", "The sum of {0} and {1}?"),
        ("Please add {0} and {1} together.", "What do {0} and {1} make?"),
    ),
    EverydayTool(
        "email",
        ("send_email", "send_mail", "send_message", "mail", "sendEmail"),
        ("Send an email", "Send a message to somebody"),
        (_PERSON, _TEXT),
        (
            'Send an email to {0} saying "{1}".', 'Tell {0} "{1}" by mail', 'Email {0}: "{1}"', 'Send {0} the message "{1}".',
            'Send a message to {0} that says "{1}"', 'Mail "{1}" to {0}.', 'Write to {0}: "{1}"',
        ),
        ('Please write {0} an email saying "{1}".', 'Send "{1}" to {0}, please.'),
    ),
    EverydayTool(
        "timer",
        ("set_timer", "start_timer", "timer", "setTimer"),
        ("Set a timer", "Start a timer of some minutes"),
        (_MINUTES,),
        (
            "Set a timer for {0} minutes.", "Start a timer of {0} minutes", "Timer: {0} minutes", "Wake me in {0} minutes.",
            "I need a timer for {0} minutes.", "{0} minutes, please.",
        ),
        ("Can you set a {0} minute timer?", "Let me know when {0} minutes are over."),
    ),
    EverydayTool(
        "reminder",
        ("set_reminder", "create_reminder", "remind", "add_reminder", "remind_me"),
        ("Set a reminder", "Remind the user of something"),
        (_TEXT, _CLOCK),
        ('Remind me at {1}: "{0}"', 'At {1} remind me of "{0}".', 'Set a reminder for {1}: "{0}"', 'Remind me of "{0}" at {1}.'),
        ('Please remind me about "{0}" at {1}.', 'I need a reminder "{0}" at {1}.'),
    ),
    EverydayTool(
        "light",
        ("turn_on_light", "switch_on_light", "light_on", "turn_on_lights"),
        ("Turn on the light in a room", "Switch the light of a room on"),
        (_ROOM,),
        (
            "Turn on the light in the {0}.", "Switch on the {0} light.", "Light in the {0}, please.", "Turn the {0} light on",
            "It is dark in the {0}.", "Put the light on in the {0}",
        ),
        ("Can you turn on the lights in the {0}?", "I need light in the {0}."),
    ),
    EverydayTool(
        "currency",
        ("convert_currency", "exchange", "currency_converter", "convert"),
        ("Convert an amount of money", "Convert between two currencies"),
        (_AMOUNT, _FROM, _TO),
        ("Convert {0} {1} to {2}.", "How much is {0} {1} in {2}?", "What are {0} {1} in {2}?", "Change {0} {1} into {2}", "{0} {1} in {2}"),
        ("How many {2} are {0} {1}?", "Please convert {0} {1} into {2}."),
    ),
    EverydayTool(
        "stock price",
        ("get_stock_price", "stock_price", "get_share_price", "quote"),
        ("Get the price of a share", "The current stock price of a company"),
        (_BRAND,),
        (
            "What is the stock price of {0}?", "How is the {0} stock?", "How much is a share of {0}?",
            "Price of {0} stock", "Tell me the share price of {0}.", "What does a {0} share cost?",
        ),
        ("How much does the stock of {0} cost?", "What is {0} trading at?"),
    ),
)  # fmt: skip
