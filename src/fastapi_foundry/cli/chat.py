"""``fastapi-foundry chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from fastapi_foundry import errors
from fastapi_foundry.cli.options import Invocation, JsonFlag, invocation
from fastapi_foundry.cli.terminal import Terminal, clean

if TYPE_CHECKING:
    from fastapi_foundry.cli.conversation import Conversation
    from fastapi_foundry.cli.http import HttpApi

__all__ = ["chat", "check_prompt", "converse"]

DEMONSTRATION: Final = (
    "{model} is a demonstration: a tiny model that shows how things work. "
    "A real one: fastapi-foundry model list --catalog"
)
_HELP: Final = "/clear forgets the conversation, /model NAME changes the model, /exit ends it; Ctrl-C stops an answer."
_PIPED_LIMIT_CHARS: Final = 10 * 1024 * 1024


def chat(
    ctx: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(help="One question; read from a pipe, or a chat begins, without it.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Model id or alias.")] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="System message.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Chat with a model; uses the gateway if it runs, else the service, which is started if needed."""
    terminal = Terminal(json=as_json)
    options = invocation(ctx)
    chosen = model if model is not None else options.settings().foundry_ai.default_model
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read(_PIPED_LIMIT_CHARS).strip()
        if not prompt:
            raise errors.InvalidInputError("The prompt from the pipe is empty.", param="prompt")
    check_prompt(prompt, terminal)
    converse(_server(options, terminal), chosen, prompt, terminal, system=system)


def check_prompt(prompt: str | None, terminal: Terminal) -> None:
    """Refuse what cannot be asked, before anything is started for it.

    Raises:
        InvalidInputError: The prompt is empty, or JSON is wanted of an interactive chat.
    """
    if prompt is None and terminal.json:
        raise errors.InvalidInputError("--json needs a prompt; an interactive chat has no JSON form.", param="prompt")
    if prompt is not None and not prompt.strip():
        raise errors.InvalidInputError("The prompt is empty.", param="prompt")


def converse(api: HttpApi, model: str, prompt: str | None, terminal: Terminal, *, system: str | None) -> None:
    """Answer one prompt, or chat until the user leaves.

    Raises:
        FoundryError: The one answer failed; in a chat a failure is shown and the chat goes on.
    """
    from fastapi_foundry.cli.conversation import Conversation  # noqa: PLC0415 - --help need not pay for it

    conversation = Conversation(api, model, system)
    if prompt is None:
        conversation.model = _known_model(api, model)
        _interactive(conversation, terminal)
    else:
        _say_demonstration(model, terminal)
        _one_shot(conversation, prompt, terminal)


def _server(options: Invocation, terminal: Terminal) -> HttpApi:
    from fastapi_foundry.cli.gateway import find_gateway  # noqa: PLC0415 - --help need not pay for it
    from fastapi_foundry.cli.service import announce_started  # noqa: PLC0415 - as above

    gateway = find_gateway(options.settings())
    if gateway is not None:
        return gateway.api()
    found, _ = announce_started(terminal, options, because="a chat")
    return found.api()


def _one_shot(conversation: Conversation, prompt: str, terminal: Terminal) -> None:
    for piece in conversation.ask(prompt):
        if not terminal.json:
            sys.stdout.write(clean(piece))
            sys.stdout.flush()
    answer = conversation.last
    terminal.say("")
    terminal.document(
        {
            "model": conversation.model,
            "content": answer.text,
            "finish_reason": answer.finish_reason,
            "usage": answer.usage,
            "duration": round(answer.duration_s, 3),
            "demonstration": _is_demonstration(conversation.model),
        }
    )


def _interactive(conversation: Conversation, terminal: Terminal) -> None:
    _enable_line_editing()
    terminal.say(f"Talking to {conversation.model}. {_HELP}")
    _say_demonstration(conversation.model, terminal)
    while True:
        # Ctrl-C ends an answer; at any other moment, also between two prompts, it only says how to leave.
        try:
            if not _prompted(conversation, terminal):
                return
        except KeyboardInterrupt:
            terminal.note("\n(/exit or Ctrl-D ends the chat)")


def _prompted(conversation: Conversation, terminal: Terminal) -> bool:
    """Read one line and do what it says; False when the user leaves."""
    try:
        line = input("\n> ").strip()
    except EOFError:
        terminal.say("")
        return False
    if line in {"/exit", "/quit"}:
        return False
    if line.startswith("/"):
        _command(line, conversation, terminal)
    elif line:
        _turn(conversation, line, terminal)
    return True


def _turn(conversation: Conversation, prompt: str, terminal: Terminal) -> None:
    pieces = conversation.ask(prompt)
    try:
        for piece in pieces:
            sys.stdout.write(clean(piece))
            sys.stdout.flush()
    except KeyboardInterrupt:
        pieces.close()
        terminal.note("\n(stopped)")
        return
    except errors.FoundryError as fact:
        terminal.note(f"\nError: {fact.message}")
        if fact.code == "context_length_exceeded":
            terminal.note("The conversation has become too long; /clear begins a new one.")
        return
    terminal.say("")
    answer = conversation.last
    if answer.finish_reason == "length":
        terminal.note("(the answer was cut at its token limit)")
    rate = answer.tokens_per_second
    if rate is not None:
        terminal.note(f"({answer.usage['completion_tokens']} tokens, {rate:.0f} tokens/s)")


def _command(line: str, conversation: Conversation, terminal: Terminal) -> None:
    word, _, argument = line.partition(" ")
    if word == "/clear":
        conversation.clear()
        terminal.say("The conversation is forgotten.")
    elif word == "/model" and argument.strip():
        try:
            conversation.model = _known_model(conversation.api, argument.strip())
        except errors.FoundryError as fact:
            terminal.note(f"Error: {fact.message}")
            return
        terminal.say(f"Now talking to {conversation.model}.")
        _say_demonstration(conversation.model, terminal)
    elif word == "/model":
        terminal.say(f"Talking to {conversation.model}.")
    else:
        terminal.say(_HELP)


def _known_model(api: HttpApi, name: str) -> str:
    """The full id behind a name that the server knows."""
    from fastapi_foundry.cli.http import path_segment  # noqa: PLC0415 - --help need not pay for it

    try:
        card = api.get(f"/v1/models/{path_segment(name)}")
    except errors.ModelNotFoundError as error:
        raise errors.ModelNotFoundError(name, "See: fastapi-foundry model list") from error
    return str(card.get("id", name)) if isinstance(card, dict) else name


def _is_demonstration(model: str) -> bool:
    return model.partition(":")[0] == "foundry-demo"


def _say_demonstration(model: str, terminal: Terminal) -> None:
    if _is_demonstration(model):
        terminal.note(DEMONSTRATION.format(model=model))


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401, PLC0415 - importing it is what gives input() its line editing
    except ImportError:
        return  # Windows' console edits lines itself
