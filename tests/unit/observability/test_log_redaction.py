"""Secrets never reach a log, and what only looks like one does."""

from __future__ import annotations

import logging
import time

import pytest

from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.observability.redaction import redacted_text

logger = get_logger(__name__)

SECRETS = [
    "password",
    "PASSWORD",
    "db_password",
    "passphrase",
    "token",
    "access_token",
    "refreshToken",
    "hf_tokens",
    "client_secret",
    "api_key",
    "apiKey",
    "x-api-key",
    "APIKEY",
    "Authorization",
    "proxy-authorization",
    "cookie",
    "Set-Cookie",
    "private_key",
    "credentials",
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_known_by_its_fields_name(logs, name):
    logs.configure()
    logger.info("x", **{name: "hush-1"}, headers={name: "hush-2"}, items=[{name: ["hush-3"]}])
    assert "hush" not in logs.text()
    assert "hush" not in logs.text("fastapi-foundry-structured.jsonl")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_tokens", 5),
        ("tokens_generated", 7),
        ("max_tokens", 2048),
        ("first_token_s", 0.25),
        ("tokenizer", "bpe"),
        ("key", "logging.dir"),
        ("keyboard", "de"),
        ("author", "me"),
        ("monkey", "x"),
        ("token", None),
    ],
)
def test_counts_and_harmless_names_are_left_alone(logs, name, value):
    logs.configure()
    logger.info("x", **{name: value})
    assert logs.record()[name] == value


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hush1234",
        "authorization=Basic hush1234hush",
        "sent bearer hush1234.abc with it",
        "the key sk-hush1234567890 was used",
        "sk-proj-hush_1234-5678",
        "hf_hushhushhush1",
        "ghp_hushhushhushhush12",
        "http://me:hush1234@host/x",
        "https://:hush1234@host/x",
        "GET /x?api_key=hush1234&b=1",
        "GET /x?token=hush1234",
        '{"password": "hush1234"}',
        "{'client_secret': 'hush1234'}",
        "password = hush1234",
        "-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiJ9.eyJodXNoIjoxfQ.hush",
        "ffk_hushhushhushhushhushhushhushhush123456",
        "xffk_hushhushhushhushhushhushhushhush123456x",
        "foundry_session=hush1234",
        "open http://127.0.0.1:9696/#link=hushhushhushhushhushhush",
        "Cookie: foundry_session=hush1234; other=hush1234",
        "--admin-key hush1234 --port 5",
        "LAB_KEY=hush1234",
        r"said:\nsk-hush1234567890",
        r"said:\x1bsk-hush1234567890",
        r"said:\u2028sk-hush1234567890",
        r"first\napi_key=hush1234",
        "password: token: hush12345678",
        "--password --token hush1234",
        "bearer password: hush1234",
        "sk-learn-password=hush1234",
        "ffk_hushhushhushhush-secret=hush1234",
        r'{"body": "{\"secret\": \"hush \\\" hush\"}", "next": 1}',
        "password=SecretStr('hush hush')",
        "postgresql://me:hu@sh/hush@host/db",
    ],
)
@pytest.mark.parametrize("place", ["message", "field", "nested", "exception", "library"])
def test_a_secret_is_known_by_its_form(logs, text, place):
    logs.configure()
    match place:
        case "message":
            logger.info(text)
        case "field":
            logger.info("x", detail=text)
        case "nested":
            logger.info("x", detail={"a": [text]})
        case "exception":
            logger.error("x", exc_info=ValueError(text))
        case _:
            logging.getLogger("uvicorn").warning("%s", text)
    written = logs.text() + logs.text("fastapi-foundry-structured.jsonl") + logs.text("fastapi-foundry-errors.log")
    assert "hush" not in written
    assert "[redacted]" in written


@pytest.mark.parametrize(
    "text",
    [
        "task-1234567890",
        "http://127.0.0.1:50477/v1",
        "http://127.0.0.1:50477/v1/me@example.org",
        "me@example.org",
        "unexpected token: }",
        "risk-assessment-report",
        "input_tokens=5, max_tokens: 2048, session_hours=12.5",
        "the password is wrong; an API key is needed",
        "12:30:45 GET /v1/models?x=1 -> 200, C:\\models: none",
    ],
)
def test_text_without_a_secret_is_left_alone(text):
    assert redacted_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            part * (60_000 // len(part))
            for part in ("a-", "eyJ", "eyJ-", "://", "bearer ", "-----BEGIN ", "a=", "--a ")
        ),
        *(
            part * (60_000 // len(part))
            for part in ("password=", "password: ", "password=b'", "password=(", "token=1 ")
        ),
        *(
            part * (60_000 // len(part))
            for part in ("cookie: a=", '"password": "', "secret=x(", "http://a:", "\\", "sk-")
        ),
        "password=" + "sk-" * 20_000,
        "token=" + "," * 60_000,
    ],
    ids=lambda text: text[:12],
)
def test_no_text_makes_redaction_slow(text):
    begin = time.process_time()
    redacted_text(text)
    redacted_text(text, limit=32_768)
    assert time.process_time() - begin < 0.5
