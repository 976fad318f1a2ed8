"""A download on the service, watched from here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from fastapi_foundry import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi_foundry.cli.background import FoundService
    from fastapi_foundry.cli.terminal import Terminal

__all__ = ["download_model"]

# A large file on a slow line reports seldom; silence for longer than this is a failure.
_SILENCE_LIMIT_S: Final = 120.0


def download_model(found: FoundService, name: str, terminal: Terminal) -> str:
    """Download ``name`` and show its progress.

    Returns:
        The full id of what was downloaded.

    Raises:
        CatalogUnavailableError: Offline, or the catalogue cannot be reached.
        ModelNotFoundError: The catalogue has no such model.
        EngineFailedError: The download broke; the message says how.
        KeyboardInterrupt: Ctrl-C; the service has been told to stop the download.
    """
    try:
        with (
            terminal.progress(f"Downloading {name}") as show,
            found.api(_SILENCE_LIMIT_S).lines("/models/download", {"model": name}, model=name) as lines,
        ):
            for event in _events(lines):
                if event.get("event") == "progress":
                    show(float(event.get("percent") or 0.0), "")
                elif event.get("event") == "done":
                    return str(event.get("model", name))
                elif event.get("event") == "error":
                    raise _fact(event.get("error"), name)
    except KeyboardInterrupt:
        found.api(5.0).post("/models/download/cancel", {"model": name}, model=name)
        raise
    raise errors.EngineFailedError(f"The download of {name} ended without a result.")


def _events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line:
            continue
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise errors.EngineFailedError("The service reported the download in a way that makes no sense.") from error
        if isinstance(event, dict):
            yield event


def _fact(error: object, name: str) -> errors.FoundryError:
    details = error if isinstance(error, dict) else {}
    message, code = str(details.get("message") or "The download failed."), details.get("code")
    if code == "catalog_unavailable":
        return errors.CatalogUnavailableError(message)
    if code == "model_not_found":
        fact = errors.ModelNotFoundError(name)
        fact.message = message
        return fact
    if details.get("type") == "invalid_request_error":
        return errors.InvalidInputError(message, param=details.get("param"), code=code)
    return errors.EngineFailedError(message)
