"""What can go wrong, as facts; no HTTP in here.

The tree::

    FoundryError
    ├── ConfigurationError            a setting is unknown or wrong; found at start
    ├── PortUnavailableError          no port in the configured range is free
    ├── InvalidInputError             the caller sent something wrong
    │   ├── ContextLengthExceededError
    │   ├── BodyTooLargeError
    │   ├── HeadTooLargeError         the first line and the headers of a request pass a limit
    │   ├── RequestTooSlowError       a request did not arrive in time
    │   ├── UnsupportedParameterError the model or engine cannot honour a parameter
    │   └── ModelFilesError           a model directory lacks what a model needs
    ├── AuthenticationError           the caller has not shown who it is
    ├── ForbiddenError                the caller may not do that, or not from where it is
    │   ├── InsufficientScopeError    its key lacks the right
    │   └── ModelNotAllowedError      its key is not for that model
    ├── KeyNotFoundError              no such API key
    ├── ObjectNotFoundError           no such file or batch, or it is somebody else's
    ├── ModelNotFoundError            no such model here
    ├── ModelUnavailableError         the model exists and cannot run now
    ├── QueueFullError                too many are waiting already
    ├── LimitExceededError            the caller, or all together, may use no more for now
    │   └── TokenBudgetExceededError  the tokens of the day or the month are used up
    ├── OverloadedError               the server holds as many connections, or as much, as it may
    ├── StructuredOutputError         the model's answer breaks the schema that was asked for
    ├── CatalogUnavailableError       the online catalogue cannot be reached (or must not be)
    ├── StorageError                  the database did not do what it was asked for
    │   ├── StorageConflictError      a row with that identity is there already, or one that is needed is not
    │   ├── StorageUnavailableError   it cannot be opened or reached, or is busy for too long
    │   ├── StorageFullError          there is no space left
    │   ├── StorageCorruptError       what is on the disk is damaged
    │   └── StorageSchemaError        its tables do not fit this program; found at start and by commands
    ├── StoppingError                 this process is about to end
    └── EngineError
        ├── EngineUnavailableError    nothing answers at the engine's address
        │   └── ModelLoadingError     it answers, and says that the model is still being loaded
        ├── EngineFailedError         the engine broke, or answered nonsense
        │   └── ModelOutputError      it works, and what the model said cannot be used
        ├── EngineTimeoutError        the engine did not answer in time
        │   └── QueueTimeoutError     the request's turn did not come in time
        └── EngineLoopError           the engine is a gateway, and the way through it leads back here

A message is written for the client: it names what is wrong and what would be right, and holds no
path, internal address or stack trace unless the caller gave that very value. ``context`` is for the
log alone. ``api/problems.py`` (gateway) and ``wire/errors.py`` (OpenAI's envelope) turn facts into
responses; nothing else does.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "BodyTooLargeError",
    "CatalogUnavailableError",
    "ConfigurationError",
    "ContextLengthExceededError",
    "EngineError",
    "EngineFailedError",
    "EngineLoopError",
    "EngineTimeoutError",
    "EngineUnavailableError",
    "ForbiddenError",
    "FoundryError",
    "HeadTooLargeError",
    "InsufficientScopeError",
    "InvalidInputError",
    "KeyNotFoundError",
    "LimitExceededError",
    "ModelFilesError",
    "ModelLoadingError",
    "ModelNotAllowedError",
    "ModelNotFoundError",
    "ModelOutputError",
    "ModelUnavailableError",
    "ObjectNotFoundError",
    "OverloadedError",
    "PortUnavailableError",
    "QueueFullError",
    "QueueTimeoutError",
    "RequestTooSlowError",
    "StoppingError",
    "StorageConflictError",
    "StorageCorruptError",
    "StorageError",
    "StorageFullError",
    "StorageSchemaError",
    "StorageUnavailableError",
    "StructuredOutputError",
    "TokenBudgetExceededError",
    "UnsupportedParameterError",
]


class FoundryError(Exception):
    """The root of everything this package raises on purpose.

    Args:
        message: For the client; see the module's docstring for what it may hold.
        context: Further facts for the log, never for the client.
    """

    code: str = "internal_error"

    def __init__(self, message: str, **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.context = context

    def __str__(self) -> str:
        return self.message


class ConfigurationError(FoundryError):
    """A setting is unknown, wrong or contradicts another.

    Args:
        key: Dotted path of the setting, such as ``fastapi_server.port``; empty for the whole file.
        source: Where the value came from: a file's path, an environment variable's name, a flag.
        reason: What is wrong and what would be right.
    """

    code = "configuration_error"

    def __init__(self, key: str, source: str, reason: str) -> None:
        super().__init__(f"{source}: {key}: {reason}" if key else f"{source}: {reason}")
        self.key = key
        self.source = source
        self.reason = reason


class PortUnavailableError(FoundryError):
    """No port that the settings allow could be bound."""

    code = "port_unavailable"


class InvalidInputError(FoundryError):
    """The request itself is wrong.

    Args:
        message: What is wrong and what would be right.
        param: The field at fault in the caller's own terms (``messages.0.role``), if one is.
        code: A stable word for programs.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, **context: object) -> None:
        super().__init__(message, **context)
        self.param = param
        if code is not None:
            self.code = code


class ContextLengthExceededError(InvalidInputError):
    """Prompt and requested answer do not fit into the model's context.

    Args:
        prompt_tokens: Exact length of the prompt, in tokens of the model.
        context_length: The model's limit, in tokens.
        model: Full model id.
    """

    def __init__(self, *, prompt_tokens: int, context_length: int, model: str) -> None:
        super().__init__(
            f"This model's maximum context length is {context_length} tokens. However, your messages resulted in "
            f"{prompt_tokens} tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
            model=model,
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class BodyTooLargeError(InvalidInputError):
    """The request's body is larger than ``limit_bytes``."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The request body is larger than the limit of {limit_bytes} bytes.", code="body_too_large")
        self.limit_bytes = limit_bytes


class HeadTooLargeError(InvalidInputError):
    """The first line and the headers of a request are more, or larger, than is taken; the message names the limit."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="head_too_large")


class RequestTooSlowError(InvalidInputError):
    """The client took too long to send its request; the message says which part, and the limit."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="request_too_slow")


class UnsupportedParameterError(InvalidInputError):
    """A parameter is understood, and this model or engine cannot honour it."""

    def __init__(self, param: str, reason: str) -> None:
        super().__init__(reason, param=param, code="unsupported_parameter")


class ModelFilesError(InvalidInputError):
    """A directory is not a model that the engine can run; the message says what is missing."""

    def __init__(self, message: str, *, param: str | None = "path", **context: object) -> None:
        super().__init__(message, param=param, code="model_files_invalid", **context)


class ForbiddenError(FoundryError):
    """The caller may not do this from where it is (foreign Host or Origin)."""

    code = "forbidden"


class AuthenticationError(FoundryError):
    """The caller has not shown who it is: no key, or one that is wrong, revoked or expired."""

    code = "invalid_api_key"


class InsufficientScopeError(ForbiddenError):
    """The caller is known and lacks a right; the message names it."""

    code = "insufficient_scope"


class ModelNotAllowedError(ForbiddenError):
    """The caller's key is not for that model, whether there is one of that name or not.

    Args:
        key: The key's name.
        model: The name as the caller gave it.
    """

    code = "model_not_allowed"

    def __init__(self, key: str, model: str) -> None:
        super().__init__(f"The key '{key}' may not use the model '{model}'.")
        self.model = model


class KeyNotFoundError(FoundryError):
    """No API key has that id or name."""

    code = "key_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no key '{name}'.")


class ObjectNotFoundError(FoundryError):
    """Nothing of that kind has that id, or it belongs to somebody else, who is not told apart from nobody.

    Args:
        kind: In words: ``file``, ``batch``.
        name: The id as the caller gave it.
    """

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"There is no {kind} '{name}'.")
        self.code = f"{kind}_not_found"


class ModelNotFoundError(FoundryError):
    """No model of that name is known here.

    Args:
        model: The name as the caller gave it.
        hint: A sentence on what to do instead, shown after the fact.
    """

    code = "model_not_found"

    def __init__(self, model: str, hint: str = "") -> None:
        super().__init__(f"The model '{model}' does not exist or is not available here." + (f" {hint}" if hint else ""))
        self.model = model


class ModelUnavailableError(FoundryError):
    """The model exists and cannot run now; the message says why.

    Args:
        model: Full model id.
        reason: In words, for the client.
        code: ``model_put_aside`` after repeated crashes, ``model_does_not_fit`` where the memory budget or pins leave no room,
            ``model_load_failed`` otherwise.
        retry_after_s: When another try may succeed, if that is known.
    """

    code = "model_load_failed"

    def __init__(self, model: str, reason: str, *, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(f"The model '{model}' cannot run: {reason}")
        self.model = model
        self.reason = reason
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class QueueFullError(FoundryError):
    """As many requests wait as may wait.

    Args:
        retry_after_s: An estimate of when a place will be free.
    """

    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LimitExceededError(FoundryError):
    """The caller's key, or all clients together, may use no more for now; the message says of what, and until when.

    Args:
        retry_after_s: Seconds until there will be room again.
    """

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TokenBudgetExceededError(LimitExceededError):
    """The tokens of the day or the month are used up."""

    code = "token_budget_exceeded"


class OverloadedError(FoundryError):
    """The server has as many connections, or holds as much, as it may.

    Args:
        retry_after_s: An estimate of when there will be room.
    """

    code = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StructuredOutputError(FoundryError):
    """No answer of the model kept to the ``response_format`` that was asked for, however often it was asked.

    Args:
        message: Which place of the answer breaks which rule, or what cut the answer off.
        param: The field of the request that was not met.
    """

    code = "structured_output_invalid"

    def __init__(self, message: str, *, param: str = "response_format", **context: object) -> None:
        super().__init__(message, **context)
        self.param = param


class CatalogUnavailableError(FoundryError):
    """The online catalogue cannot be used: offline mode, no network, or the catalogue's own failure."""

    code = "catalog_unavailable"


class StorageError(FoundryError):
    """The database did not do what it was asked for, and it is not the caller's doing."""

    code = "storage_error"


class StorageConflictError(StorageError):
    """A row with that identity is there already, or a row that this one needs is not."""

    code = "storage_conflict"


class StorageUnavailableError(StorageError):
    """The database cannot be opened or reached, or somebody else keeps it busy for too long.

    Args:
        message: For the client.
        retry_after_s: When another try may succeed, if that is known.
    """

    code = "storage_unavailable"

    def __init__(self, message: str, *, retry_after_s: float | None = None, **context: object) -> None:
        super().__init__(message, **context)
        self.retry_after_s = retry_after_s


class StorageFullError(StorageError):
    """There is no space left for the database; nothing of what was to be written is in it."""

    code = "storage_full"


class StorageCorruptError(StorageError):
    """What is on the disk is damaged, or is no database."""

    code = "storage_corrupt"


class StorageSchemaError(StorageError):
    """The tables do not fit this program, or could not be brought to fit it.

    Met at start and by commands, never by a client, so that the message may name files.
    """

    code = "storage_schema"


class StoppingError(FoundryError):
    """This process is about to end and takes no more work, or had to end the work at hand."""

    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("The server is shutting down; please try again in a moment.")


class EngineError(FoundryError):
    """The engine, not the request, is at fault."""

    code = "engine_error"


class EngineUnavailableError(EngineError):
    """Nothing answers at the engine's address.

    Args:
        message: For the client.
        url: The engine's base URL; the native API may show it, since F3 asks for it.
        retry_after_s: When another try may succeed, if the engine said so.
    """

    code = "engine_unavailable"

    def __init__(
        self, message: str, *, url: str | None = None, retry_after_s: float | None = None, **context: object
    ) -> None:
        super().__init__(message, **context)
        self.url = url
        self.retry_after_s = retry_after_s


class ModelLoadingError(EngineUnavailableError):
    """The engine lives and is still loading the model; asking again after ``retry_after_s`` seconds helps."""

    code = "model_loading"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class EngineFailedError(EngineError):
    """The engine broke while it worked, or its answer makes no sense."""

    code = "engine_failed"


class ModelOutputError(EngineFailedError):
    """The engine works; what the model said cannot be used, and another try may go better."""


class EngineLoopError(EngineError):
    """A request between gateways came back to one that it had passed, or passed too many.

    The engine lives, and the same request would go the same way again.
    """

    code = "loop_detected"


class EngineTimeoutError(EngineError):
    """The engine was silent for longer than ``limit_s``."""

    code = "engine_timeout"

    def __init__(self, message: str, *, limit_s: float, **context: object) -> None:
        super().__init__(message, **context)
        self.limit_s = limit_s


class QueueTimeoutError(EngineTimeoutError):
    """The request waited for its turn until its deadline; the engine has not seen it, and nothing is wrong with it.

    Args:
        waited_s: For how long.
        limit_s: For how long it might.
    """

    code = "queue_timeout"

    def __init__(self, *, waited_s: float, limit_s: float) -> None:
        super().__init__(
            f"The request waited {round(waited_s, 1):g} s for its turn, longer than its deadline.", limit_s=limit_s
        )
        self.waited_s = waited_s
