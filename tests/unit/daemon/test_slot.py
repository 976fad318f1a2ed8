from __future__ import annotations

import asyncio
import os
from pathlib import Path

from fastapi_foundry.daemon.slot import DEATH_WINDOW_S, Slot, memory_mb
from fastapi_foundry.daemon.store import LocalModel


def slot() -> Slot:
    return Slot(LocalModel("m:1", Path("/nowhere"), "store", None, "broken"), asyncio.Semaphore(1))


def test_three_failures_within_the_window_put_a_model_aside():
    place = slot()
    assert [place.note_failure(now, "boom") for now in (0.0, 1.0, DEATH_WINDOW_S)] == [False, False, True]
    assert place.state == "put_aside"
    assert "boom" in place.put_aside


def test_old_failures_do_not_count():
    place = slot()
    assert not any(place.note_failure(now, "boom") for now in (0.0, 1.0, DEATH_WINDOW_S + 0.1))
    assert place.state == "cached"


def test_memory_of_a_process_is_known_while_it_lives():
    assert (memory_mb(os.getpid()) or 0) > 5
    assert memory_mb(2**30) is None
