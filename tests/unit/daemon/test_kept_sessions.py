from __future__ import annotations

from pathlib import Path

import orjson

from fastapi_foundry.daemon.kept_sessions import KeepLimits, KeptSession, KeptSessions, cache_bytes

HOUR_S = 3600.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def kept(limit: int, *, idle_s: float = HOUR_S) -> tuple[KeptSessions[str], list[str], Clock]:
    closed: list[str] = []
    clock = Clock()
    return KeptSessions(limit, idle_s, closed.append, clock), closed, clock


def opened(sessions: KeptSessions[str], name: str) -> KeptSession[str]:
    assert sessions.admit()
    return KeptSession(name, key=name.encode())


def test_a_session_belongs_to_one_request_at_a_time():
    sessions, closed, _ = kept(2)
    sessions.put(opened(sessions, "a"))
    keys = [(3, b"other"), (1, b"a")]
    taken = sessions.take(keys)
    assert taken is not None
    assert (taken[0], taken[1].session) == (1, "a")
    assert sessions.take(keys) is None
    sessions.put(taken[1])
    assert sessions.take(keys) is not None
    assert closed == []


def test_the_one_that_has_been_idle_longest_makes_room():
    sessions, closed, _ = kept(2)
    sessions.put(opened(sessions, "a"))
    sessions.put(opened(sessions, "b"))
    taken = sessions.take([(1, b"a")])
    assert taken is not None
    sessions.put(taken[1])
    sessions.put(opened(sessions, "c"))
    assert closed == ["b"]


def test_nothing_is_opened_beyond_the_limit_while_all_are_at_work():
    sessions, closed, _ = kept(1)
    first = opened(sessions, "a")
    assert not sessions.admit()
    sessions.drop(first)
    assert closed == ["a"]
    assert sessions.admit()
    sessions.drop(None)
    assert sessions.admit()


def test_a_limit_of_none_keeps_none():
    sessions, _, _ = kept(0)
    assert not sessions.admit()


def test_two_that_came_to_the_same_place_leave_one():
    sessions, closed, _ = kept(4)
    first, second = opened(sessions, "first"), opened(sessions, "second")
    first.key = second.key = b"same"
    sessions.put(first)
    sessions.put(second)
    assert closed == ["first"]


def test_what_is_idle_too_long_is_closed():
    sessions, closed, clock = kept(2, idle_s=1000.0)
    sessions.put(opened(sessions, "a"))
    clock.now += 600.0
    sessions.put(opened(sessions, "b"))
    clock.now += 400.0
    assert sessions.expire() == 1
    assert closed == ["a"]


def test_memory_bounds_the_number(tmp_path: Path):
    decoder = {"num_hidden_layers": 5, "num_key_value_heads": 4, "head_size": 64}
    config = {"model": {"context_length": 4096, "decoder": decoder}}
    (tmp_path / "genai_config.json").write_bytes(orjson.dumps(config))
    size = cache_bytes(tmp_path)
    assert size == 40 * 2**20
    assert KeepLimits(sessions=9, memory_mb=100).sessions_for(size) == 2
    assert KeepLimits(sessions=1, memory_mb=100).sessions_for(size) == 1
    assert KeepLimits(sessions=9, memory_mb=39).sessions_for(size) == 0


def test_a_model_whose_cache_cannot_be_foreseen_keeps_nothing(tmp_path: Path):
    assert cache_bytes(tmp_path) == 0
    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {"head_size": null}}}')
    assert cache_bytes(tmp_path) == 0
    assert KeepLimits().sessions_for(0) == 0
