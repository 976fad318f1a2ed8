"""The lines of whole requests are those that the loggers write, to the byte, in the same files."""

from __future__ import annotations

import json
import random
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastapi_foundry.observability import pipeline as pipelines
from fastapi_foundry.observability.exchange_lines import ExchangeLines, as_records
from fastapi_foundry.observability.exchange_log import ExchangeLog
from fastapi_foundry.observability.handlers import RotatingFile
from fastapi_foundry.observability.logging import Logger, configure_logging, get_logger
from fastapi_foundry.observability.records import Record, as_event, as_json_line, as_text_line
from fastapi_foundry.observability.shapes import Files, Learner
from fastapi_foundry.settings import LoggingSettings
from tests.support.waiting import eventually_sync

CREATED = 1_777_863_721.219
OWN_ID = b"req_0123456789abcdef0123456789abcdef"
GENERATIONS, REQUESTS = "fastapi_foundry.generations", "fastapi_foundry.requests"
USUAL: dict[str, Any] = {
    "path": "/v1/chat/completions",
    "status_code": 200,
    "request_id": OWN_ID,
    "duration_s": 0.01234567,
    "model_id": "foundry-demo:1",
    "status": "ok",
    "generation_s": 0.0123,
    "prompt_tokens": 17,
    "completion_tokens": 42,
    "first_byte_s": 0.0045678912,
    "user_id": "key_1",
}


def ordinarily(values: dict[str, Any]) -> None:
    """What the loggers are told of the same request."""
    own_id = values["request_id"].decode("latin-1")
    get_logger(GENERATIONS).log_model_operation(
        model_id=values["model_id"],
        operation="generate",
        status=values["status"],
        duration=values["generation_s"],
        tokens_generated=values["completion_tokens"],
        input_tokens=values["prompt_tokens"],
        output_tokens=values["completion_tokens"],
        generation_time=values["generation_s"],
        first_byte_time=values["first_byte_s"],
        user_id=values["user_id"],
        request_id=own_id,
    )
    get_logger(REQUESTS).log_api_request(
        "POST", values["path"], values["status_code"], values["duration_s"], request_id=own_id
    )


def exchange_log(created: float = CREATED) -> ExchangeLog:
    return ExchangeLog(GENERATIONS, REQUESTS, clock=lambda: created)


class Caught:
    """Takes the place of the pipeline: the lines of what it is given, and how much of that was not ordinary."""

    verbose = False

    def __init__(self) -> None:
        self.lowest = dict.fromkeys((None, "dev", "prod"), 10)
        self.created = CREATED
        self.text: list[bytes] = []
        self.structured: list[bytes] = []
        self.odd = 0
        self.exchange_lines = ExchangeLines(Learner("gateway", 7, lambda _: Files((self.text,), (self.structured,))))

    def submit(self, items: Any) -> None:
        event = as_event(Record._make(items)._replace(created=self.created), "gateway", 7)
        self.text.append(as_text_line(event).encode("utf-8", "backslashreplace"))
        self.structured.append(as_json_line(event))

    def submit_exchange(self, items: Any) -> None:
        if not self.exchange_lines.add(items):
            self.odd += 1
            for record in as_records(items):
                self.submit(record)

    def take(self) -> tuple[list[tuple[bytes, bytes]], int]:
        lines, odd, self.odd = list(zip(self.text, self.structured, strict=True)), self.odd, 0
        self.text.clear()
        self.structured.clear()
        return lines, odd


class CountingLines(ExchangeLines):
    """Counts the requests that have to go another way."""

    odd = 0

    def add(self, items: Any) -> bool:
        done = super().add(items)
        self.odd += not done
        return done


@pytest.fixture
def caught(monkeypatch) -> Caught:
    made = Caught()
    monkeypatch.setattr(pipelines, "_active", made)
    return made


def both(caught: Caught, log: ExchangeLog, values: dict[str, Any]) -> bool:
    """Write a request both ways and compare; whether it was ordinary."""
    caught.take()
    ordinarily(values)
    expected, _ = caught.take()
    log.write(**values)
    lines, odd = caught.take()
    assert lines == expected
    assert len(lines) == 2
    return not odd


def test_the_records_of_a_request_read_exactly_so(caught):
    exchange_log().write(**USUAL)
    generation, request = caught.take()[0]
    assert generation == (
        (
            b"2026-05-04T03:02:01.219Z info     fastapi_foundry.generations: model operation"
            b" request_id=req_0123456789abcdef0123456789abcdef model_id=foundry-demo:1 operation=generate status=ok"
            b" duration=0.0123 tokens_generated=42 input_tokens=17 output_tokens=42 generation_time=0.0123"
            b" first_byte_time=0.00456789 user_id=key_1\n"
        ),
        (
            b'{"timestamp":"2026-05-04T03:02:01Z","ms":219,"level":"info","logger":"fastapi_foundry.generations",'
            b'"message":"model operation","process":"gateway","pid":7,"request_id":"req_0123456789abcdef0123456789abcdef",'
            b'"model_id":"foundry-demo:1","operation":"generate","status":"ok","duration":0.0123,"tokens_generated":42,'
            b'"input_tokens":17,"output_tokens":42,"generation_time":0.0123,"first_byte_time":0.0045678912,'
            b'"user_id":"key_1"}\n'
        ),
    )
    assert request == (
        (
            b"2026-05-04T03:02:01.219Z info     fastapi_foundry.requests: request"
            b" request_id=req_0123456789abcdef0123456789abcdef method=POST api_path=/v1/chat/completions status_code=200"
            b" duration=0.0123457\n"
        ),
        (
            b'{"timestamp":"2026-05-04T03:02:01Z","ms":219,"level":"info","logger":"fastapi_foundry.requests",'
            b'"message":"request","process":"gateway","pid":7,"request_id":"req_0123456789abcdef0123456789abcdef",'
            b'"method":"POST","api_path":"/v1/chat/completions","status_code":200,"duration":0.01234567}\n'
        ),
    )


ORDINARY: list[dict[str, Any]] = [
    *({"status_code": code} for code in (200, 404, 429, 499, 500, 503)),
    *({"status": status} for status in ("failed", "cancelled", "refused", "limited")),
    {"user_id": None},
    {"first_byte_s": None},
    {"user_id": None, "first_byte_s": None, "status": "failed", "status_code": 503},
    *({"user_id": user} for user in ("50%", "%b", "日本", "{}", "a'b")),
    *({"model_id": model} for model in ("100%", "%(x)s", "org/model-8b@q4:2", "日本:1", "a\\b")),
    {"path": "/v1/models/{model_id}"},
    *({"request_id": own_id} for own_id in (b"req_0", b"a-1.b:c", b"x" * 128, b"Req_0", b"req_0123_")),
    *({"completion_tokens": count, "prompt_tokens": count} for count in (0, 4095, 4096, 10**9, 2**53 - 1)),
    *(
        {name: odd}
        for name in ("duration_s", "generation_s", "first_byte_s")
        for odd in (0.0, -0.0, 5e-324, 1e-7, 1e-5, 9.9999951e-5, 1e-4, 0.1 + 0.2, 1.0, 60.0, 99_999.96, 999_999.6)
    ),
    *({"duration_s": whole, "generation_s": whole, "first_byte_s": whole} for whole in (0, 5, 999_999)),
]


@pytest.mark.parametrize("change", ORDINARY, ids=repr)
def test_what_is_ordinary_goes_the_quick_way(caught, change):
    log = exchange_log()
    for values in (USUAL, USUAL | change, USUAL, USUAL | change):
        assert both(caught, log, values)


SECRETS = ("sk-abcdef123456", "password=hunter2", "http://a:hunter2@e", "ffk_0123456789", "AKIAABCDEFGHIJKLMNOP")
ODD_TEXTS = (*SECRETS, "", "a b", 'a"b', "a=b", "a\nb", "\x1b[31m", "\ud800", "x" * 65, "x" * 300, "x" * 9000)
ODD: list[dict[str, Any]] = [
    *({"model_id": odd} for odd in ODD_TEXTS),
    *({"user_id": odd} for odd in ODD_TEXTS),
    *({"path": odd} for odd in ODD_TEXTS),
    *({"status": odd} for odd in ("a b", "\ud800", SECRETS[0])),
    *({"request_id": odd.encode("ascii", "replace")} for odd in ODD_TEXTS if odd not in ODD_TEXTS[10:13]),
    *({"request_id": odd} for odd in (b"req_" + SECRETS[4].encode(), b"\xe9", b'"', b"%b", b"req_0\n", b"x" * 129)),
    *(
        {name: odd}
        for name in ("duration_s", "generation_s", "first_byte_s")
        for odd in (1e6, 1234567.5, 1e16, -1e6, -0.5, float("nan"), float("inf"), float("-inf"), 10**7)
    ),
    *({name: odd} for name in ("prompt_tokens", "completion_tokens") for odd in (-1, 2**53, 2**63, 2**64)),
    {"status_code": 10**30},
]


@pytest.mark.parametrize("change", ODD, ids=lambda change: repr(change)[:60])
def test_what_is_odd_reads_the_same(caught, change):
    log = exchange_log()
    for values in (USUAL, USUAL | change, USUAL, USUAL | change):
        assert both(caught, log, values) == (values is USUAL)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", ["model_id", "user_id", "path", "status", "request_id"])
def test_no_secret_is_written(caught, name, secret):
    log = exchange_log()
    for value in ("a", secret, "b", secret):
        log.write(**(USUAL | {name: value.encode() if name == "request_id" else value}))
    written = b"".join(text + line for text, line in caught.take()[0])
    assert b"[redacted]" in written
    assert re.sub(".*[=:](?=hunter)", "", secret).encode() not in written


TEXTS = st.one_of(
    st.sampled_from(["foundry-demo:1", "key_1", "ok", "50%", "%s", "日本"]),
    st.sampled_from(ODD_TEXTS),
    st.text(max_size=8),
)
FLOATS = st.one_of(st.floats(0, 1), st.floats(), st.sampled_from([0.0, 999_999.4, 999_999.6, 1e6, 1e-7]))
INTEGERS = st.one_of(st.integers(0, 9999), st.integers())
IDS = st.one_of(
    st.integers(0, 2**128 - 1).map(lambda number: b"req_%032x" % number),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40).map(str.encode),
)
KEPT = (Caught(), exchange_log())  # what one example taught is used for the next


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "path": st.one_of(st.just("/v1/chat/completions"), TEXTS),
            "status_code": st.sampled_from([200, 400, 404, 499, 500]),
            "request_id": IDS,
            "duration_s": FLOATS,
            "model_id": TEXTS,
            "status": st.sampled_from(["ok", "failed", "cancelled", "a b"]),
            "generation_s": FLOATS,
            "prompt_tokens": INTEGERS,
            "completion_tokens": INTEGERS,
            "first_byte_s": st.one_of(FLOATS, st.none()),
            "user_id": st.one_of(TEXTS, st.none()),
        }
    )
)
def test_both_ways_lead_to_the_same_bytes(values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "_active", KEPT[0])
        both(*KEPT, values)


def test_the_time_is_right_to_the_millisecond(caught):
    steps = random.Random(1)
    created = 1_777_863_719.9
    log = ExchangeLog(GENERATIONS, REQUESTS, clock=lambda: created)
    for _ in range(3000):
        created += steps.choice([0.0, 1e-7, 1e-6, 1e-4, 0.0009, 0.001, 0.3, -0.0005, -1.1])
        caught.created = created
        assert both(caught, log, USUAL)


def test_what_is_remembered_is_bounded(caught):
    log = exchange_log()
    for number in range(6000):
        change = {"user_id": f"key_{number}"} if number % 2 else {"model_id": f"model:{number}" + " " * (number % 3)}
        if number < 1500:
            both(caught, log, USUAL | change)
        else:
            log.write(**(USUAL | {"user_id": f"key_{number}"}))
    log.write(**USUAL | {"model_id": "x" * 257})
    kept = caught.exchange_lines
    assert len(kept._patterns) <= 512
    assert max(len(model_id) for _, _, _, model_id, _ in kept._patterns) <= 256
    assert len(kept._users) <= 4096
    assert both(caught, log, USUAL)


# From here on with a real pipeline.


def files_of(home: Path, write: Any, **options: Any) -> tuple[dict[str, str], int]:
    """The contents of all log files after ``write``, and how many requests were not ordinary."""
    with configure_logging(LoggingSettings(**options), home=home, process="gateway"):
        writer = pipelines.active()
        writer._exchange_lines = CountingLines(writer._exchange_lines._learner)
        write()
    return {path.name: path.read_text() for path in (home / "logs").iterdir()}, writer._exchange_lines.odd


def requests() -> list[dict[str, Any]]:
    changes = (
        {},
        {"status": "failed"},
        {"status_code": 404},
        {"status_code": 500, "status": "failed"},
        {"user_id": "a b"},
    )
    return [USUAL | change | {"request_id": b"req_%x" % number} for number, change in enumerate(changes * 2)]


@pytest.mark.parametrize("level", [None, "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_all_files_and_the_console_hold_the_same(tmp_path, monkeypatch, capfd, level):
    monkeypatch.setattr("time.time", lambda: CREATED)
    log = exchange_log()
    expected, _ = files_of(tmp_path / "a", lambda: [ordinarily(values) for values in requests()], level=level)
    shown = capfd.readouterr().err
    files, odd = files_of(tmp_path / "b", lambda: [log.write(**values) for values in requests()], level=level)
    assert files == expected
    assert capfd.readouterr().err == shown
    assert len(files) == 6
    if level is None:
        assert files["fastapi-foundry.log"].count("\n") == 20
        assert files["fastapi-foundry-errors.log"].count("\n") == 6
        assert files["api-requests.log"].count("\n") == files["model-manager.log"].count("\n") == 10
        assert odd == 2  # a user with a blank


@pytest.mark.parametrize("change", [{}, {"status_code": 404}, {"user_id": "a b", "status": "cancelled"}])
def test_what_no_file_wants_is_not_even_handed_over(logs, monkeypatch, change):
    logs.configure(level="ERROR")
    monkeypatch.setattr(pipelines.active(), "submit_exchange", None)
    monkeypatch.setattr(Logger, "_log", None)
    exchange_log().write(**USUAL | change)


def test_dev_mode_says_who_logged(tmp_path, capfd):
    log = exchange_log()
    files, _ = files_of(tmp_path, lambda: log.write(**USUAL), mode="dev")
    records = [json.loads(line) for line in files["fastapi-foundry-structured.jsonl"].splitlines()]
    assert [record["message"] for record in records] == ["model operation", "request"]
    assert all(record["place"].startswith("test_exchange_log.py:") for record in records)
    assert "model operation" in capfd.readouterr().err


def test_places_are_found_where_no_console_shows_them_too(tmp_path, monkeypatch):
    route = pipelines.Route(RotatingFile(tmp_path / "x.log", max_bytes=10_000, backup_count=1), lambda _: True)
    levels = {None: pipelines.Thresholds(file=10, console=60)}
    writer = pipelines.Pipeline("gateway", [route], levels, verbose=True)
    monkeypatch.setattr(pipelines, "_active", writer)
    exchange_log().write(**USUAL)
    writer.close()
    assert (tmp_path / "x.log").read_text().count("(test_exchange_log.py:") == 2


def test_without_logging_the_standard_library_decides(caplog):
    assert pipelines.active() is None
    values = USUAL | {"status": "failed", "status_code": 500}
    ordinarily(values)
    expected = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    caplog.clear()
    exchange_log().write(**values)
    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == expected
    assert len(expected) == 2


def test_records_go_to_the_pipeline_that_is_in_force(tmp_path):
    log = exchange_log()
    log.write(**USUAL)
    for home in ("a", "b"):
        files, odd = files_of(tmp_path / home, lambda: [log.write(**USUAL) for _ in range(3)])
        log.write(**USUAL)
        assert files["fastapi-foundry.log"].count("\n") == 6
        assert odd == 0
    process_ids = {json.loads(line)["pid"] for line in files["fastapi-foundry-structured.jsonl"].splitlines()}
    assert len(process_ids) == 1


def test_the_order_among_other_records_is_that_of_the_calls(tmp_path):
    log, logger = exchange_log(), get_logger("other")

    def write() -> None:
        for number in range(3000):
            log.write(**(USUAL | {"request_id": b"req_%x" % number}))
            logger.info("plain", number=number)
            if number % 10 == 0:
                logger.info("odd", number=[number])

    files, _ = files_of(tmp_path, write)
    expected = []
    for number in range(3000):
        expected += [f"req_{number:x}", f"req_{number:x}", number] + ([[number]] if number % 10 == 0 else [])
    structured = map(json.loads, files["fastapi-foundry-structured.jsonl"].splitlines())
    assert [record.get("request_id", record.get("number")) for record in structured] == expected
    lines = files["fastapi-foundry.log"].splitlines()
    assert [line.split()[2] for line in lines[:4]] == [f"{GENERATIONS}:", f"{REQUESTS}:", "other:", "other:"]


def test_records_of_other_threads_stay_whole(tmp_path):
    log, logger = exchange_log(), get_logger("other")

    def work() -> None:
        for number in range(1500):
            logger.info("plain", number=number)

    def write() -> None:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(1500):
            log.write(**(USUAL | {"request_id": b"req_%x" % number}))
        for thread in threads:
            thread.join()

    files, _ = files_of(tmp_path, write)
    records = [json.loads(line) for line in files["fastapi-foundry-structured.jsonl"].splitlines()]
    assert len(records) == 7500
    assert [r["request_id"] for r in records if r["message"] == "request"] == [f"req_{n:x}" for n in range(1500)]


class Counting(threading.Event):
    """Counts how often it is waited for."""

    waits = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return super().wait(timeout)


def test_a_burst_is_written_without_a_pause_after_each_batch(logs):
    logs.configure()
    log = exchange_log()
    pipelines.active()._closing = pauses = Counting()
    for _ in range(9000):
        log.write(**USUAL)
    path = logs.directory / "fastapi-foundry.log"
    eventually_sync(lambda: path.read_bytes().count(b"\n") == 18000, timeout_s=10)
    assert pauses.waits <= 5


class Stuck(RotatingFile):
    """A disk that does not answer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, max_bytes=1_000_000, backup_count=1)
        self.gate, self.reached = threading.Event(), threading.Event()

    def write(self, lines: Any) -> None:
        self.reached.set()
        self.gate.wait(10)
        super().write(lines)


def test_what_finds_no_room_is_counted_and_said(tmp_path, monkeypatch):
    file = Stuck(tmp_path / "x.jsonl")
    levels = {None: pipelines.Thresholds(file=20, console=60)}
    route = pipelines.Route(file, lambda _: True, structured=True)
    writer = pipelines.Pipeline("gateway", [route], levels, verbose=False, capacity=50)
    monkeypatch.setattr(pipelines, "_active", writer)
    log = exchange_log()
    log.write(**USUAL)
    assert file.reached.wait(5)
    for _ in range(500):
        log.write(**USUAL)
    assert writer.dropped == 900
    file.gate.set()
    writer.close()
    records = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    (said,) = [record for record in records if record["level"] == "warning"]
    assert said["dropped"] == 900
    assert len(records) == 103
