"""What a record says, in the structured file and in the text files."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import threading
from pathlib import Path

import pytest

from fastapi_foundry.errors import ConfigurationError, FoundryError
from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.logging import get_logger, traced

logger = get_logger("fastapi_foundry.test")


def test_a_record_has_exactly_the_form_that_jq_reads(logs):
    logs.configure()
    logger.info("model loaded", model_id="foundry-demo:1", duration=0.5)
    record = logs.record()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["timestamp"])
    assert 0 <= record["ms"] <= 999
    assert record["level"] == "info"
    assert (record["logger"], record["message"]) == ("fastapi_foundry.test", "model loaded")
    assert (record["model_id"], record["duration"]) == ("foundry-demo:1", 0.5)
    assert record["process"] == "gateway"
    assert "api_path" not in record


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_levels_are_in_lower_case(logs, level):
    logs.configure(mode="dev")
    getattr(logger, level)("x")
    assert logs.record()["level"] == level


def test_a_request_record_has_the_path_and_goes_to_its_own_file_too(logs):
    logs.configure()
    logger.log_api_request("GET", "/v1/models", 200, 0.25, user_id="u")
    logger.info("something else", api_path="/no/request")
    request, other = logs.records()
    assert (request["api_path"], request["method"], request["status_code"]) == ("/v1/models", "GET", 200)
    assert (request["duration"], request["user_id"]) == (0.25, "u")
    assert "api_path" not in other
    assert logs.text("api-requests.log").count("\n") == 1


@pytest.mark.parametrize(
    ("status", "level"), [(200, "info"), (304, "info"), (404, "warning"), (429, "warning"), (503, "error")]
)
def test_the_level_of_a_request_follows_its_status(logs, status, level):
    logs.configure()
    logger.log_api_request("GET", "/x", status, 0.1)
    assert logs.record()["level"] == level


def test_a_model_operation_goes_to_its_own_file_too(logs):
    logs.configure()
    logger.log_model_operation("foundry-demo:1", "generate", "ok", 1.5, tokens_generated=7, user_id="u")
    logger.log_model_operation("foundry-demo:1", "load", "failed", 1.5)
    done, failed = logs.records()
    assert (done["model_id"], done["operation"], done["status"]) == ("foundry-demo:1", "generate", "ok")
    assert (done["duration"], done["tokens_generated"], done["level"]) == (1.5, 7, "info")
    assert failed["level"] == "error"
    assert "tokens_generated" not in failed
    assert logs.text("model-manager.log").count("\n") == 2


def test_mcp_records_go_to_their_own_file_too(logs):
    logs.configure()
    get_logger("fastapi_foundry.mcp.client").info("tool called")
    assert "tool called" in logs.text("mcp-client.log")
    assert "tool called" in logs.text()


def test_errors_and_critical_records_are_in_the_errors_file(logs):
    logs.configure(level="DEBUG")
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)(f"a {level} record")
    lines = logs.text("fastapi-foundry-errors.log").splitlines()
    assert [re.search(r"a (\w+) record", line)[1] for line in lines] == ["error", "critical"]


@pytest.mark.parametrize(
    ("process", "files"),
    [
        (
            "gateway",
            [
                "api-requests.log",
                "fastapi-foundry-errors.log",
                "fastapi-foundry-structured.jsonl",
                "fastapi-foundry.log",
                "mcp-client.log",
                "model-manager.log",
            ],
        ),
        ("service", ["foundry-service-errors.log", "foundry-service-structured.jsonl", "foundry-service.log"]),
        ("cli", ["fastapi-foundry-cli.log"]),
    ],
)
def test_every_process_has_files_of_its_own(logs, process, files):
    logs.configure(process).close()
    assert sorted(path.name for path in logs.directory.iterdir()) == files


def test_the_request_id_is_taken_from_the_context_and_a_given_one_wins(logs, in_request):
    logs.configure()
    in_request("req-1")
    logger.info("one")
    logger.info("two", request_id="req-2")
    assert [record["request_id"] for record in logs.records()] == ["req-1", "req-2"]


async def test_concurrent_requests_keep_their_own_ids(logs, in_request):
    logs.configure()

    async def serve(name: str) -> None:
        request_id.set(name)
        await asyncio.sleep(0)
        logger.info("done", name_seen=name)
        await asyncio.to_thread(logger.info, "in a thread", name_seen=name)

    await asyncio.gather(*(asyncio.create_task(serve(f"req-{number}")) for number in range(10)))
    records = logs.records()
    assert len(records) == 20
    assert all(record["request_id"] == record["name_seen"] for record in records)


def test_an_exception_carries_its_traceback(logs):
    logs.configure()
    try:
        json.loads("{")
    except ValueError:
        logger.exception("broken", file="x")
    record = logs.record()
    assert record["level"] == "error"
    assert record["exception"].startswith("Traceback (most recent call last):")
    assert "JSONDecodeError" in record["exception"]
    assert record["error_type"] == "JSONDecodeError"


@pytest.mark.parametrize("form", ["true", "exception", "tuple"])
def test_exc_info_is_understood_in_every_form(logs, form):
    logs.configure()
    try:
        {}["lost"]
    except KeyError as error:
        given = {"true": True, "exception": error, "tuple": sys.exc_info()}[form]
        logger.warning("x", exc_info=given)
    assert "KeyError: 'lost'" in logs.record()["exception"]


def test_the_context_of_our_own_errors_is_logged_redacted(logs):
    logs.configure()
    error = FoundryError("for the client", path=Path("/srv/model"), api_key="k-1")
    logger.warning("x", exc_info=error)
    assert logs.record()["error_context"] == {"path": "/srv/model", "api_key": "[redacted]"}


def test_exc_info_without_an_exception_adds_nothing(logs):
    logs.configure()
    logger.info("x", exc_info=True)  # noqa: LOG014 - the point
    assert "exception" not in logs.record()


def test_a_newline_in_a_message_cannot_forge_a_record(logs):
    logs.configure()
    forged = "2026-01-01T00:00:00.000Z critical root: forged"
    message = f"a\n{forged}\r\u2028\x1b[31m"
    logger.info(message, field=f"b\n{forged}")
    try:
        int(f"c\n{forged}".replace("\n", "\n\n"))
    except ValueError:
        logger.exception("d")
    assert len(logs.records()) == 2
    lines = logs.text().split("\n")
    assert not [line for line in lines if line.startswith(forged)]
    assert "\x1b" not in logs.text()


def test_values_of_any_kind_are_logged(logs):
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    cyclic: list[object] = []
    cyclic.append(cyclic)
    logs.configure()
    logger.info(
        "x",
        big=2**80,
        lone="\ud800",
        nan=float("nan"),
        path=Path("/a"),
        error=ValueError("v"),
        odd=Odd(),
        cyclic=cyclic,
        keys={1: {"a": {2}}},
        small=7,
    )
    record = logs.record()
    assert record["big"] == str(2**80)
    assert record["nan"] is None
    assert record["path"] == "/a"
    assert record["error"] == "ValueError: v"
    assert record["odd"] == "<Odd without text>"
    assert record["keys"] == {"1": {"a": [2]}}
    assert record["small"] == 7


def test_a_value_is_logged_as_it_was_at_the_call(logs):
    logs.configure()
    models = ["a"]
    logger.info("x", models=models)
    models.append("b")
    assert logs.record()["models"] == ["a"]


def test_a_field_cannot_replace_what_a_record_says_of_itself(logs):
    logs.configure()
    logger.info("real", level="critical", timestamp="never", message="false", duration="soon")
    record = logs.record()
    assert (record["level"], record["message"]) == ("info", "real")
    assert (record["level_"], record["message_"], record["duration_"]) == ("critical", "false", "soon")
    assert "duration" not in record


def test_very_long_values_are_cut(logs):
    logs.configure()
    logger.info("m" * 100_000, field="f" * 100_000, items=list(range(1000)))
    record = logs.record()
    assert len(record["message"]) < 9000
    assert record["field"].endswith("(100000 characters)")
    assert len(record["items"]) == 100


def test_a_timer_logs_the_duration_and_what_was_added(logs):
    logs.configure()
    with logger.timer("store scanned", path="/x") as timer:
        timer.add(models=3)
    record = logs.record()
    assert (record["message"], record["path"], record["models"]) == ("store scanned", "/x", 3)
    assert record["duration"] == timer.duration >= 0


def test_a_timer_logs_a_failure_and_lets_it_go_on(logs):
    logs.configure()
    with pytest.raises(ValueError, match="no"), logger.timer("scan"):
        raise ValueError("no")
    record = logs.record()
    assert (record["level"], record["outcome"], record["error"]) == ("error", "failed", "ValueError: no")


def test_a_cancelled_timer_is_no_error(logs):
    logs.configure()
    with pytest.raises(asyncio.CancelledError), logger.timer("scan"):
        raise asyncio.CancelledError
    record = logs.record()
    assert (record["level"], record["outcome"]) == ("info", "cancelled")


@traced
def add(first: int, second: int) -> int:
    return first + second


@traced(name="asynchronous", level=logging.INFO)
async def add_later(first: int, second: int) -> int:
    return first + second


@traced
async def numbers():
    yield 1
    yield 2


@traced
def letters():
    yield "a"


@traced
async def fail() -> None:
    raise ConfigurationError("k", "s", "r")


async def test_traced_logs_calls_of_every_kind_of_function(logs):
    logs.configure(level="DEBUG")
    assert add(1, 2) == 3
    assert await add_later(1, 2) == 3
    assert [number async for number in numbers()] == [1, 2]
    assert list(letters()) == ["a"]
    with pytest.raises(ConfigurationError):
        await fail()
    records = [record for record in logs.records() if "call" in record]
    assert [(record["level"], record["call"]) for record in records] == [
        ("debug", "add"),
        ("info", "asynchronous"),
        ("debug", "numbers"),
        ("debug", "letters"),
        ("error", "fail"),
    ]
    assert all(isinstance(record["duration"], float) for record in records)
    assert records[-1]["error"] == "ConfigurationError: s: k: r"


async def test_leaving_a_traced_stream_early_ends_it_at_once(logs):
    logs.configure(level="DEBUG")
    stream = numbers()
    async for _ in stream:
        break
    await stream.aclose()
    assert [record["message"] for record in logs.records() if "call" in record] == ["call cancelled"]


def test_traced_keeps_name_and_documentation():
    assert add.__name__ == "add"
    assert asyncio.iscoroutinefunction(add_later)


def test_records_of_libraries_are_captured(logs):
    logs.configure()
    logging.getLogger("uvicorn.error").warning("late by %s", 5)
    logging.getLogger("uvicorn.error").debug("noise")
    record = logs.record()
    assert (record["logger"], record["level"], record["message"]) == ("uvicorn.error", "warning", "late by 5")


def test_foreign_levels_become_ours(logs):
    logs.configure()
    logging.getLogger("x").log(25, "notice")
    assert logs.record()["level"] == "info"


def test_a_librarys_record_with_wrong_arguments_harms_nobody(logs, capsys):
    logs.configure()
    (ours,) = [handler for handler in logging.getLogger().handlers if "observability" in type(handler).__module__]
    ours.handle(logging.makeLogRecord({"msg": "%d", "args": ("text",), "levelno": logging.WARNING}))
    logger.info("still here")
    assert [record["message"] for record in logs.records()] == ["still here"]
    assert "Logging error" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_uncaught_exception_in_a_thread_is_logged_as_critical(logs, capsys):
    logs.configure()

    def broken() -> None:
        raise ValueError("in a thread")

    thread = threading.Thread(target=broken, name="worker-1")
    thread.start()
    thread.join()
    record = logs.record()
    assert (record["level"], record["thread"]) == ("critical", "worker-1")
    assert "in a thread" in record["exception"]


def test_before_configuration_the_standard_library_has_the_record(caplog):
    logger.warning("early", count=1, api_key="k-1")
    (record,) = caplog.records
    assert record.getMessage() == "early count=1 api_key=[redacted]"


def test_after_closing_records_go_to_the_standard_library_again(logs, caplog):
    logs.configure().close()
    logger.warning("late")
    assert "late" in caplog.text
    assert "late" not in logs.text()


def test_configuring_again_closes_what_was_open(logs, tmp_path):
    first = logs.configure()
    logger.info("one")
    logs.configure()
    logger.info("two")
    first.close()
    logger.info("three")
    assert [record["message"] for record in logs.records()] == ["one", "two", "three"]


def test_a_logger_says_whether_a_level_would_be_written(logs):
    logs.configure()
    assert logger.is_enabled_for(logging.INFO)
    assert not logger.is_enabled_for(logging.DEBUG)
    assert get_logger("x", mode="dev").is_enabled_for(logging.DEBUG)
