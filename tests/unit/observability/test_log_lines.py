"""The short way of a record to its lines ends where the long way does, to the byte."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from http import HTTPStatus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_foundry.observability import pipeline as pipelines
from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.handlers import RotatingFile
from fastapi_foundry.observability.lines import ShortWay
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.observability.records import Record, as_event, as_json_line, as_text_line
from fastapi_foundry.observability.shapes import Files
from tests.support.waiting import eventually_sync

CREATED = 1_777_863_721.219
OWN_ID = "req_0123456789abcdef0123456789abcdef"


class Caught:
    """Takes the place of the pipeline, and the records that loggers hand over."""

    verbose = False
    lowest = dict.fromkeys((None, "dev", "prod"), 10)

    def __init__(self) -> None:
        self.records: list[Record] = []

    def submit(self, items) -> None:
        self.records.append(Record._make(items)._replace(created=CREATED))


class Ways:
    """Both ways of the same record."""

    def __init__(self) -> None:
        self.text: list[bytes] = []
        self.structured: list[bytes] = []
        self.short_way = ShortWay("gateway", 7, lambda _: Files((self.text,), (self.structured,)))

    def short(self, record: Record) -> tuple[bytes, bytes] | None:
        if not self.short_way.add(record):
            assert not self.text + self.structured
            return None
        return self.text.pop(), self.structured.pop()

    @staticmethod
    def long(record: Record) -> tuple[bytes, bytes]:
        event = as_event(record, "gateway", 7)
        return as_text_line(event).encode("utf-8", "backslashreplace"), as_json_line(event)


@pytest.fixture
def ways() -> Ways:
    return Ways()


@pytest.fixture
def logged(monkeypatch):
    """Calls a method of a logger and returns the record that it makes."""
    caught = Caught()
    monkeypatch.setattr(pipelines, "_active", caught)

    def call(method: str, *args: object, **fields: object) -> Record:
        getattr(get_logger("fastapi_foundry.x"), method)(*args, **fields)
        return caught.records.pop()

    return call


GENERATION = {
    "model_id": "foundry-demo:1",
    "operation": "generate",
    "status": "ok",
    "duration": 1.23456789,
    "tokens_generated": 42,
    "input_tokens": 17,
    "output_tokens": 42,
    "generation_time": 1.23456789,
    "first_byte_time": 0.0456,
    "user_id": "key_1",
}


def test_the_record_of_a_request_reads_exactly_so(ways, logged, in_request):
    in_request(OWN_ID)
    record = logged("log_api_request", "POST", "/v1/chat/completions", 404, 0.01234567)
    assert ways.short(record) == (
        (
            b"2026-05-04T03:02:01.219Z warning  fastapi_foundry.x: request request_id=req_0123456789abcdef0123456789abcdef"
            b" method=POST api_path=/v1/chat/completions status_code=404 duration=0.0123457\n"
        ),
        (
            b'{"timestamp":"2026-05-04T03:02:01Z","ms":219,"level":"warning","logger":"fastapi_foundry.x","message":"request",'
            b'"process":"gateway","pid":7,"request_id":"req_0123456789abcdef0123456789abcdef","method":"POST",'
            b'"api_path":"/v1/chat/completions","status_code":404,"duration":0.01234567}\n'
        ),
    )


@pytest.mark.parametrize(("first", "user"), [(0.0456, "key_1"), (None, None)])
def test_the_record_of_a_generation_reads_exactly_so(ways, logged, first, user):
    record = logged("log_model_operation", **GENERATION | {"first_byte_time": first, "user_id": user})
    first_json, user_json = ("0.0456", '"key_1"') if user else ("null", "null")
    assert ways.short(record) == (
        b"2026-05-04T03:02:01.219Z info     fastapi_foundry.x: model operation model_id=foundry-demo:1 operation=generate"
        b" status=ok duration=1.23457 tokens_generated=42 input_tokens=17 output_tokens=42 generation_time=1.23457"
        + f" first_byte_time={first} user_id={user}\n".encode(),
        b'{"timestamp":"2026-05-04T03:02:01Z","ms":219,"level":"info","logger":"fastapi_foundry.x",'
        b'"message":"model operation","process":"gateway","pid":7,"model_id":"foundry-demo:1","operation":"generate",'
        b'"status":"ok","duration":1.23456789,"tokens_generated":42,"input_tokens":17,"output_tokens":42,'
        + f'"generation_time":1.23456789,"first_byte_time":{first_json},"user_id":{user_json}}}\n'.encode(),
    )


@pytest.mark.parametrize("without", [(), ("input_tokens", "first_byte_time"), ("tokens_generated", "user_id")])
def test_a_model_operation_has_the_fields_that_it_was_given_and_no_others(logged, without):
    given = {name: value for name, value in GENERATION.items() if name not in without}
    for more in ({}, {"size_mb": 5}):
        record = logged("log_model_operation", **given | more)
        assert list(record.fields.items()) == list((given | more).items())


def test_any_other_ordinary_record_takes_the_short_way_too(ways, logged):
    record = logged("info", "100% done", model="a+b", share=0.25, count=3, on=True, of=None, request_id="a-1.b:c")
    assert ways.short(record) == (
        (
            b"2026-05-04T03:02:01.219Z info     fastapi_foundry.x: 100% done request_id=a-1.b:c"
            b" model=a+b share=0.25 count=3 on=True of=None\n"
        ),
        (
            b'{"timestamp":"2026-05-04T03:02:01Z","ms":219,"level":"info","logger":"fastapi_foundry.x","message":"100% done",'
            b'"process":"gateway","pid":7,"request_id":"a-1.b:c","model":"a+b","share":0.25,"count":3,"on":true,"of":null}\n'
        ),
    )


PLAIN_TEXTS = ["GET", "/v1/models/{model_id}", "foundry-demo:1", "ok", "failed", "日本", "50%", "%s", "1e+7", "{}"]
ODD_TEXTS = ["", "a b", 'a"b', "a=b", "a\nb", "\x1b[31m", "\ud800", "sk-abcdef123456", "password=abc", "x" * 65]
TEXTS = st.one_of(st.sampled_from(PLAIN_TEXTS), st.sampled_from(PLAIN_TEXTS + ODD_TEXTS), st.text(max_size=8))
FLOATS = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 999_999.4, 999_999.6, -1e6, 1e6, 1234567.5, 1e-7]))
INTEGERS = st.one_of(st.integers(0, 5000), st.sampled_from([-1, 10**6, 2**63 - 1, 2**63, 2**64, -(2**63) - 1]))
SCALARS = st.one_of(TEXTS, FLOATS, INTEGERS, st.booleans(), st.none())
VALUES = st.one_of(SCALARS, SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(TEXTS, SCALARS, max_size=2))
NAMES = st.sampled_from(
    ["a", "b", "c", "model", "duration", "user_id", "input_tokens", "50%", "é"] * 2
    + [
        "level",
        "message",
        "api_path",
        "request_id",
        "error_type",
        "token",
        "api_key",
        "sk-abcdef123456",
        "\ud800",
        "n\n",
    ]
)
IDS = st.one_of(st.none(), st.sampled_from([OWN_ID, "a-1", "a b", "sk-abcdef123456", "é", "i\n", "req_", "x" * 129]))
REQUESTS = st.tuples(
    st.sampled_from(["GET", "BREW", "a b", "sk-abcdef123456"]), TEXTS, INTEGERS, st.one_of(FLOATS, VALUES)
)
GENERATIONS = st.fixed_dictionaries(
    {
        "model_id": TEXTS,
        "operation": TEXTS,
        "status": st.sampled_from(["ok", "failed", "a b"]),
        "duration": FLOATS,
        "tokens_generated": st.one_of(INTEGERS, st.none()),
    },
    optional={
        "input_tokens": st.one_of(INTEGERS, VALUES),
        "output_tokens": st.one_of(INTEGERS, INTEGERS, FLOATS),
        "generation_time": st.one_of(FLOATS, INTEGERS),
        "first_byte_time": st.one_of(FLOATS, st.none(), st.booleans()),
        "user_id": st.one_of(TEXTS, st.none()),
        "x": VALUES,
    },
)
FIELDS = st.dictionaries(NAMES, VALUES, max_size=4)
KEPT = Ways()  # what one example taught is used for the next


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(
        st.tuples(st.just("log_api_request"), REQUESTS, st.one_of(st.just({}), st.dictionaries(st.just("x"), VALUES))),
        st.tuples(st.just("log_model_operation"), st.just(()), GENERATIONS),
        st.tuples(st.sampled_from(["info", "error"]), st.tuples(TEXTS), FIELDS),
    ),
    IDS,
    st.floats(0, 4e9),
)
def test_both_ways_lead_to_the_same_bytes(call, own_id, created):
    method, args, fields = call
    caught = Caught()
    token = request_id.set(own_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "_active", caught)
        getattr(get_logger("fastapi_foundry.x"), method)(*args, **fields)
    request_id.reset(token)
    record = caught.records.pop()._replace(created=created)
    for each in (record, record._replace(created=created + 0.0004), record):
        assert KEPT.short(each) in {None, Ways.long(each)}


ODD_FLOATS = [0.0, -0.0, 999_999.4, 999_999.6, 1e6, -1e6, 1234567.5, 1e16, 1e-7, 0.1 + 0.2, float("nan"), float("-inf")]
ODD_CALLS = [
    *(("log_api_request", ("GET", "/x", 200, odd), {}) for odd in [*ODD_FLOATS, 5, True, 10**7]),
    *(("log_api_request", ("GET", "/x", odd, 0.5), {}) for odd in (True, 200.0, 10**30, HTTPStatus.OK)),
    *(("log_api_request", (odd, "/x", 200, 0.5), {}) for odd in ("a b", "\ud800", "sk-abcdef123456")),
    *(
        ("log_model_operation", (), GENERATION | {name: odd})
        for name in ("duration", "generation_time", "first_byte_time")
        for odd in [*ODD_FLOATS, 5, True]
    ),
    *(
        ("log_model_operation", (), GENERATION | {name: odd})
        for name in ("tokens_generated", "input_tokens", "output_tokens")
        for odd in (0, 2**63, 2**64, True, 1.5, 1e7, None, "7", [7])
    ),
    *(("log_model_operation", (), GENERATION | {"user_id": odd}) for odd in ("a b", "", 7, "\ud800", "ffk_0123456789")),
    ("log_model_operation", (), GENERATION | {"x": 1}),
    ("log_model_operation", (), GENERATION | {"exc_info": ValueError("sk-abcdef123456")}),
    *(("info", ("x",), {"a": odd}) for odd in [*ODD_FLOATS, 2**64, True, "a b", [1], ValueError("x")]),
    ("info", ("x",), {"a": 1, "exc_info": ValueError("y")}),
    ("info", ("\ud800",), {"a": 1}),
    ("info", ("x",), {}),
]


@pytest.mark.parametrize("call", ODD_CALLS, ids=repr)
def test_what_is_odd_reads_the_same_whatever_was_learned_before(logged, call):
    method, args, fields = call
    odd = logged(method, *args, **fields)
    usual = [
        logged("log_api_request", "GET", "/x", 200, 0.5),
        logged("log_model_operation", **GENERATION | {"generation_time": 0.75}),
        logged("info", "x", a=1),
        logged("info", "x", a=1.5),
        logged("info", "x", a="text"),
    ]
    for before, after in ((usual, []), ([], usual)):
        ways = Ways()
        for record in before:
            assert ways.short(record) == ways.long(record)
        for _ in range(2):
            assert ways.short(odd) in {None, ways.long(odd)}
        for record in after:
            assert ways.short(record) == ways.long(record)


def test_the_time_is_right_to_the_millisecond(ways, logged):
    record = logged("log_api_request", "GET", "/x", 200, 0.5)
    steps = random.Random(1)
    created = 1_777_863_720.9
    for _ in range(3000):
        created += steps.choice([0.0, 1e-7, 1e-6, 1e-4, 0.0009, 0.001, -0.0005])
        each = record._replace(created=created)
        assert ways.short(each) == ways.long(each)


@pytest.mark.parametrize("secret", ["sk-abcdef123456", "password=abc", "http://a:bcd123@e"])
def test_a_text_that_was_plain_before_makes_no_way_for_a_secret(ways, logged, secret):
    for text in ("a", secret):
        assert (ways.short(logged("info", "x", detail=text)) is None) == (text == secret)
        assert (ways.short(logged("info", "x", detail="a", request_id=text)) is None) == (text == secret)
        assert (ways.short(logged("log_api_request", "GET", text, 200, 0.5)) is None) == (text == secret)
        assert (ways.short(logged("log_model_operation", **GENERATION | {"user_id": text})) is None) == (text == secret)
        assert (ways.short(logged("info", text, a=1)) is None) == (text == secret)


def test_what_is_remembered_is_bounded(ways, logged):
    for number in range(3000):
        for record in (
            logged("info", f"x {number}", n=f"text-{number}"),
            logged("log_api_request", "GET", f"/x/{number}", 200, 0.5),
            logged("log_model_operation", **GENERATION | {"user_id": f"key_{number}"}),
        ):
            assert ways.short(record) == ways.long(record)
    kept = ways.short_way
    assert max(map(len, (kept._shapes, kept._requests, kept._generations))) <= 512
    assert len(kept._plain_texts) <= 2048


def test_a_record_that_cannot_be_shown_takes_no_other_with_it(logs, capsys):
    handle = logs.configure()
    logger = get_logger("x")
    for huge in (10**5000, 1, 10**5000):  # Python refuses to make a text of so long a number
        logger.info("counted", count=huge)
        logger.info("other", count=1)
    assert [record["count"] for record in logs.records() if record["message"] != "log records were dropped"] == [1] * 4
    assert handle.dropped == 2
    assert "log records were lost: ValueError" in capsys.readouterr().err


def test_a_record_that_comes_while_others_are_written_wakes_the_writer_again(tmp_path):
    class Busy(RotatingFile):
        def write(self, lines) -> None:
            super().write(lines)
            if b"first" in lines[0]:
                writer.submit(record._replace(message="second"))

    path = tmp_path / "x.log"
    route = pipelines.Route(Busy(path, max_bytes=1_000_000, backup_count=1), lambda _: True)
    writer = pipelines.Pipeline("gateway", [route], {None: pipelines.Thresholds(file=20, console=60)}, verbose=False)
    record = Record(CREATED, 20, "x", "first", {}, None)
    writer.submit(record)
    eventually_sync(lambda: "second" in path.read_text(), timeout_s=2)
    writer.close()


def test_records_reach_their_file_however_they_meet_the_writer(logs):
    """Submitted while it sleeps, wakes, gathers and writes; nobody closes, which would write them anyhow."""
    logs.configure()
    path = logs.directory / "fastapi-foundry.log"
    logger = get_logger("x")

    def work(seed: int) -> None:
        pauses = random.Random(seed)
        for number in range(25):
            logger.info("met", seed=seed, number=number)
            time.sleep(pauses.choice([0, 0.001, 0.02, 0.049, 0.0505, 0.052, 0.06]))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually_sync(lambda: path.read_text().count("met") == 100, timeout_s=1)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timers that signal")
def test_signal_handlers_may_log_while_the_code_that_they_interrupt_logs(logs):
    logs.configure()
    logger = get_logger("x")
    marks = itertools.count()
    before = signal.signal(signal.SIGALRM, lambda *_: logger.info("interrupted", mark=next(marks)))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for number in range(4000):
            logger.info("going on", number=number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    records = logs.records()
    assert [record["number"] for record in records if record["message"] == "going on"] == list(range(4000))
    interrupted = [record["mark"] for record in records if record["message"] == "interrupted"]
    # One handler may interrupt another between its number and its record.
    assert sorted(interrupted) == list(range(next(marks)))
    assert interrupted
