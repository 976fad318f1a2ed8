"""One request on the express way: what the engine sends, as it comes, to the client; the books closed at the end."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import orjson

from fastapi_foundry.engines.direct import DirectWay
from fastapi_foundry.engines.http_client import ConnectFailedError, ConnectionLostError, HttpError, HttpResponse
from fastapi_foundry.engines.http_protocol import HttpConnection
from fastapi_foundry.engines.transport import MAX_ANSWER_BYTES, hidden_error
from fastapi_foundry.errors import EngineFailedError, FoundryError, StoppingError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.services.generations import Generation, Generations
from fastapi_foundry.services.lanes import Place
from fastapi_foundry.services.limit_tickets import FreeTicket, Ticket
from fastapi_foundry.services.stopping import Stopping

__all__ = ["Books", "Exchange", "Sink", "WholeExchange", "usage_of"]

logger = get_logger(__name__)

_OK: Final = 200
# Nothing has been done for these, or not all that can be: the ordinary way loads the model, waits, or words the refusal.
_ANOTHER_WAY: Final = frozenset({400, 404, 409, 413, 422, 429, 503})


class Sink(Protocol):
    """Where an answer goes. Nothing waits: what the client does not take in time stays in memory, see ``writable``."""

    @property
    def writable(self) -> bool:
        """Whether the client takes what it gets; ``Exchange.resume`` is called when it does so again."""
        ...

    def answer(self, body: bytes) -> None:
        """The whole answer."""
        ...

    def begin_stream(self) -> None:
        """The head of a stream."""
        ...

    def frames(self, frames: bytes) -> None:
        """Whole frames of a stream that has begun."""
        ...

    def chunk(self, framed: bytes) -> None:
        """The same, as a chunk of HTTP/1.1."""
        ...

    def end_stream(self) -> None:
        """The end of a stream that has begun."""
        ...

    def fail(self, fact: FoundryError) -> None:
        """The answer is that error; nothing has been said before."""
        ...

    def over(self) -> None:
        """All has been said, and the books are closed; nothing else is told afterwards."""
        ...

    def go_another_way(self) -> None:
        """Nothing has been said, and the ordinary way has to answer."""
        ...


class Books(NamedTuple):
    """Where exchanges are accounted for; the same for all of a service.

    Attributes:
        generations: Concludes them.
        stopping: Ends those that last too long when the process is about to end.
    """

    generations: Generations
    stopping: Stopping


class Exchange(Generation):
    """A request that is with its engine, and what is recorded of it; see the two kinds below.

    Args:
        sink: Told of the answer, from the event loop's callbacks, once the exchange has been sent.
        books: Closed at the end.
        ticket: Given back at the end.
        place: Left at the end.
        way: To the engine.
        of: What ``Generation`` takes: principal, model, path, request, beginning and meter.

    Attributes:
        duration_s: How long it took, once it is over.
        prompt_tokens: Likewise what it used.
        completion_tokens: Likewise.
        streams: Whether the answer is a stream.
    """

    streams: ClassVar[bool]
    __slots__ = (
        "_generations",
        "_is_over",
        "_line",
        "_place",
        "_response",
        "_routed",
        "_sink",
        "_stopping",
        "completion_tokens",
        "duration_s",
        "engine_name",
        "prompt_tokens",
        "request_id",
        "ticket",
    )

    def __init__(
        self, sink: Sink, books: Books, ticket: Ticket | FreeTicket, place: Place, way: DirectWay, *of: Any
    ) -> None:
        Generation.__init__(self, *of)
        self.ticket = ticket
        self.request_id = b""
        self.duration_s = 0.0
        self.prompt_tokens = self.completion_tokens = 0
        self._generations, self._stopping = books
        self._place = place
        self._routed, self._line, self.engine_name = way
        self._sink = sink
        self._response: HttpResponse | None = None
        self._is_over = False

    def __call__(self) -> None:
        """Break off, since the process is about to end."""
        self._fail(StoppingError())

    def begin(self, body: bytes, request_id: bytes) -> None:
        """Send ``body``, on a new connection if none is at rest; what comes of it is told to the sink."""
        self.request_id = request_id
        routed, line = self._routed, self._line
        routed.active += 1
        routed.breaker.begin()
        self._stopping.add(self)
        connection = line.take()
        if connection is not None:
            self._response = line.send(connection, body, request_id, self, streams=self.streams)
        else:
            line.connect().add_done_callback(functools.partial(self._connected, body))

    def _connected(self, body: bytes, task: asyncio.Task[HttpConnection]) -> None:
        if task.cancelled():
            failure: BaseException | None = ConnectFailedError("the connection was given up", refused=False)
        else:
            failure = task.exception()
        if failure is None and self._is_over:
            self._line.give_back(task.result())
        elif failure is None:
            self._response = self._line.send(task.result(), body, self.request_id, self, streams=self.streams)
        elif not self._is_over:
            self._not_connected(failure)

    def _not_connected(self, failure: BaseException) -> None:
        """The ordinary way tries once more, and says what there is to say."""
        del failure
        self._give_over()

    def news(self) -> None:
        """Something has arrived from the engine, or happened to it."""
        raise NotImplementedError

    def chunk(self, body: bytes, framed: bytes) -> bool:
        """Not taken as such."""
        del body, framed
        return False

    def resume(self) -> None:
        """The client takes what it gets again."""

    def abandon(self) -> None:
        """The client has gone: the engine's work ends with its connection."""
        if not self._is_over:
            self.status = "cancelled"
            self._routed.breaker.abandoned()
            self._conclude()

    def _conclude(self) -> None:
        self._is_over = True
        self._stopping.discard(self)
        self._routed.active -= 1
        self._place.leave()
        self.ticket.release()
        # They would hold each other in memory until the garbage collector comes by.
        response, self._response = self._response, None
        if response is not None and not response.complete:
            response.close()
        self.duration_s, self.prompt_tokens, self.completion_tokens = self._generations.close(self)

    def _broke(self, failure: HttpError, response: HttpResponse) -> None:
        if isinstance(failure, ConnectFailedError | ConnectionLostError) and not response.received_any:
            # A kept connection that the engine has closed at this very moment, most likely: it has done nothing.
            self._give_over()
        else:
            self._fail(self._line.fact(failure))

    def _refused(self, response: HttpResponse, body: bytes) -> None:
        if response.status in _ANOTHER_WAY:
            self._give_over()
        else:
            self._fail(self._line.refusal(response, body, self.model_id))

    def _give_over(self) -> None:
        """Let the ordinary way answer, which keeps books of its own; the ticket goes with the request."""
        self._is_over = True
        self._stopping.discard(self)
        self._routed.active -= 1
        self._place.leave()
        self._routed.breaker.abandoned()
        response, self._response = self._response, None
        if response is not None:
            response.close()
        self._sink.go_another_way()

    def _fail(self, fact: FoundryError) -> None:
        if self._is_over:
            return
        self.ended_by(fact)
        self._routed.breaker.failed(fact)
        self._say_failure(fact)
        self._conclude()
        self._sink.over()

    def _say_failure(self, fact: FoundryError) -> None:
        self._sink.fail(fact)


class WholeExchange(Exchange):
    """An answer that is sent when all of it is there."""

    streams = False
    __slots__ = ("_bytes", "_parts")

    def __init__(
        self, sink: Sink, books: Books, ticket: Ticket | FreeTicket, place: Place, way: DirectWay, *of: Any
    ) -> None:
        Exchange.__init__(self, sink, books, ticket, place, way, *of)
        self._parts: list[bytes] = []
        self._bytes = 0

    def news(self) -> None:
        """See ``Exchange``."""
        response = self._response
        if response is None or self._is_over:
            return
        if response.failure is not None:
            self._broke(response.failure, response)
            return
        part = response.take()
        if response.complete and not self._parts:
            self._arrived(response, part)
            return
        self._parts.append(part)
        self._bytes += len(part)
        if self._bytes > MAX_ANSWER_BYTES:
            self._fail(EngineFailedError(f"The engine's answer is larger than {MAX_ANSWER_BYTES} bytes."))
        elif response.complete:
            self._arrived(response, b"".join(self._parts))

    def _arrived(self, response: HttpResponse, body: bytes) -> None:
        if response.status != _OK:
            self._refused(response, body)
            return
        try:
            if (fact := hidden_error(body)) is not None:
                raise fact
            self.usage = usage_of(body)
        except FoundryError as error:
            self._fail(error)
            return
        self.status = "ok"
        sink = self._sink
        sink.answer(body)
        self._routed.breaker.succeeded()
        self._conclude()
        sink.over()


def usage_of(body: bytes) -> dict[str, Any]:
    """The usage that a whole answer tells; empty where it tells none.

    Raises:
        EngineFailedError: It is no JSON object.
    """
    try:
        usage = orjson.loads(body).get("usage")
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise EngineFailedError("The engine's answer is not JSON.") from error
    return usage if isinstance(usage, dict) else {}
