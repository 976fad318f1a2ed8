"""The real service with real runners that note, in a file, when they decode each token and when they hear a cancel.

``python -m tests.faults.watched service ...`` is the service; without arguments it is a runner. The file is named by
``WATCHED_RECORD``: each runner writes there when it
hears a cancel, and when its engine is done with a request.
"""

from __future__ import annotations

import itertools
import os
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fastapi_foundry.daemon.job import Job
from tests.support.processes import ProductProcess, _running

__all__ = ["DECODING", "PROMPT", "WAITING", "Left", "Record", "Watched", "watched_service"]

WAITING: Final = "waiting"
PROMPT: Final = "prompt"
DECODING: Final = "decoding"
_RECORD_VARIABLE: Final = "WATCHED_RECORD"
_ROOT: Final = Path(__file__).parents[2]
# The runner's pid, its number for the request, what happened, and when in nanoseconds of the system's monotonic clock.
_NOTE: Final = struct.Struct("<IIBQ")
# The demo model takes 400,000 or more for a token on any machine that is known.
_QUICKEST_NS: Final = 200_000
_TAKEN_UP, _PIECE, _CANCEL = 1, 2, 3


@dataclass
class Watched:
    """One request inside a runner; times are ``time.monotonic_ns``.

    Attributes:
        taken_up: When the engine got it; None while it waited for a thread.
        pieces: When each piece of text was decoded. The first names the speaker and is no token.
        cancelled: When the runner heard that it is to stop.
    """

    taken_up: int | None = None
    pieces: list[int] = field(default_factory=list)
    cancelled: int | None = None

    def tokens_after(self, moment: int | None) -> int:
        """How many pieces were decoded later than that."""
        return 0 if moment is None else sum(when > moment for when in self.pieces)

    def decoded_after(self, moment: int | None) -> int:
        """How many of those were decoded later, too, and had not waited in the engine until a thread took them."""
        if moment is None:
            return 0
        pairs = itertools.pairwise([0, *self.pieces])
        return sum(when > moment and when - before > _QUICKEST_NS for before, when in pairs)


@dataclass
class Left:
    """A client that has left.

    Attributes:
        when: By ``time.monotonic_ns``, just before its socket was closed.
        received: Pieces of the answer that it had got.
        reached: Its request as a runner saw it; None where none ever did.
    """

    when: int
    received: int = 0
    reached: Watched | None = None

    @property
    def phase(self) -> str:
        """In which phase it left; a request that had not reached an engine waited, for a place or a load."""
        if self.reached is None or (self.reached.taken_up or self.when) >= self.when:
            return WAITING
        return PROMPT if not self.reached.pieces or self.reached.pieces[0] > self.when else DECODING

    @property
    def later(self) -> int:
        """Tokens that a runner counted after it had left."""
        return 0 if self.reached is None else self.reached.tokens_after(self.when)

    @property
    def after_cancel(self) -> int:
        """Those of them that the runner counted after it had heard of it."""
        return 0 if self.reached is None else self.reached.tokens_after(self.reached.cancelled)

    @property
    def decoded(self) -> int:
        """Those of these that had not been decoded before."""
        return 0 if self.reached is None else self.reached.decoded_after(self.reached.cancelled)

    @property
    def heard_ms(self) -> float | None:
        """Milliseconds until the runner heard of it."""
        if self.reached is None or self.reached.cancelled is None:
            return None
        return (self.reached.cancelled - self.when) / 1e6


@dataclass(frozen=True)
class Record:
    """What the runners have noted."""

    path: Path

    def size(self) -> int:
        """Its end now, for ``since``."""
        return self.path.stat().st_size if self.path.exists() else 0

    def since(self, position: int) -> list[Watched]:
        """The requests that something was noted of after ``position``, in the order of the first note."""
        seen: dict[tuple[int, int], Watched] = {}
        with self.path.open("rb") as file:
            file.seek(position)
            notes = file.read()
        for pid, number, what, when in _NOTE.iter_unpack(notes[: len(notes) // _NOTE.size * _NOTE.size]):
            request = seen.setdefault((pid, number), Watched())
            if what == _PIECE:
                request.pieces.append(when)
            elif what == _CANCEL:
                request.cancelled = request.cancelled or when
            else:
                request.taken_up = request.taken_up or when
        return list(seen.values())


@contextmanager
def watched_service(home: Path, env: Mapping[str, str] | None = None) -> Iterator[tuple[ProductProcess, Record]]:
    """The service, ready to be asked, and what its runners note."""
    record = home / "watched.bin"
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    more = {_RECORD_VARIABLE: str(record), "PYTHONPATH": paths} | dict(env or {})
    command = [sys.executable, "-m", "tests.faults.watched", "service"]
    with _running(command, home, more, stdin=subprocess.DEVNULL) as process:
        record.touch()
        yield process, Record(record)


def _note_everything(path: str) -> None:
    """Have each ``Job`` of this process say what happens to it, when its engine is done with it."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    pid = os.getpid()
    kept: dict[int, list[bytes]] = defaultdict(list)
    running, count_piece, cancel = Job.running, Job.count_piece, Job.cancel

    def note(job: Job, what: int, when: int) -> None:
        kept[job.id].append(_NOTE.pack(pid, job.id, what, when))

    def noted_running(job: Job, request: Any) -> None:
        if request is not None:
            note(job, _TAKEN_UP, time.monotonic_ns())
        elif job.id in kept:
            os.write(file, b"".join(kept.pop(job.id)))
        running(job, request)

    def noted_piece(job: Job) -> bool:
        note(job, _PIECE, time.monotonic_ns())
        return count_piece(job)

    def noted_cancel(job: Job) -> None:
        # Writing lets other threads run, so it comes last.
        when = time.monotonic_ns()
        cancel(job)
        os.write(file, _NOTE.pack(pid, job.id, _CANCEL, when))

    vars_of_job = {"running": noted_running, "count_piece": noted_piece, "cancel": noted_cancel}
    for name, method in vars_of_job.items():
        setattr(Job, name, method)


def _main() -> int:
    if sys.argv[1:2] == ["service"]:
        from fastapi_foundry.daemon import launch  # noqa: PLC0415 - the module's name is read by whoever imports it next

        vars(launch)["RUNNER_MODULE"] = "tests.faults.watched"
        from fastapi_foundry.daemon.__main__ import main as service  # noqa: PLC0415 - see above

        return service(sys.argv[2:])
    from fastapi_foundry.daemon.runner import main as runner  # noqa: PLC0415 - the service needs none of it

    _note_everything(os.environ[_RECORD_VARIABLE])
    runner()
    return 0


if __name__ == "__main__":
    sys.exit(_main())
