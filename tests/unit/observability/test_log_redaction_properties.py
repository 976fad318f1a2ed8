"""Whatever a record is made of, no part of a secret in it reaches a log file."""

from __future__ import annotations

import json
import logging
import string
from dataclasses import make_dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastapi_foundry.errors import FoundryError
from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.logging import configure_logging, get_logger
from fastapi_foundry.observability.redaction import redacted_ends, redacted_text
from fastapi_foundry.settings import LoggingSettings

logger = get_logger("fastapi_foundry.test")

PIECE = 8  # characters of a secret that no log may show
LETTERS = "GHJKMNPQRSTVWXYZ"  # of secrets alone, so that a piece of one is known when it is seen
CORE = st.text(LETTERS, min_size=24, max_size=40)
FORMS = st.sampled_from(
    [
        "ffk_{}",
        "sk-{}",
        "sk-proj-{}",
        "hf_{}",
        "ghp_{}",
        "Bearer {}",
        "bearer%20{}",
        "Basic {}==",
        "eyJ{0}.{0}.{0}",
        "eyJ{0}.{0}",
        "https://me:{}@host/x",
        "postgresql://:a/{}@b{}@host:5432/db",
        "-----BEGIN RSA PRIVATE KEY-----\n{0}\n{0}\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\\n{}",
        "Authorization: {}",
        "Authorization: Digest a={0}, b={0}",
        "Cookie: a={0}; b={0}",
        'Set-Cookie: a="{0}, {0}"; Path=/',
        "/x?api_key={}&y=1",
        "token={}",
        "--admin-key {}",
        "PGPASSWORD={}",
        "LAB_KEY={}",
        "password: {}",
        "password: token: {}",
        "password=SecretStr('{0} {0}')",
        "client_secret = b'{0} {0}'",
        '{{"password": "{0} \\" {0}"}}',
        "{{'api_key': ['{0}', '{0}']}}",
        '"{{\\"secret\\": \\"{0} {0}\\"}}"',
        "[(b'x-api-key', b'{0} {0}')]",
    ]
)
NAMES = st.sampled_from(
    [
        "password",
        "dbPassword",
        "API_KEY",
        "x-api-key",
        "Authorization",
        "set-cookie",
        "hf_token",
        "private_key",
        "sessionId",
    ]
)
# Text around a secret: anything, and what the forms are made of; a letter or digit beside one would make it another word.
CHARACTERS = st.characters(exclude_characters=LETTERS)
AROUND = st.one_of(
    st.text(CHARACTERS, max_size=30),
    st.sampled_from(["password", "token: ", "a=", "x: '", "://", "--a ", "ffk_", "\\"]),
)
BESIDE = st.sampled_from([" ", "\n", "\t", ">", "|", " ("])
SECRET_TEXTS = st.builds(
    lambda before, beside, form, core, after: (core, before + beside + form.format(core, core) + after),
    AROUND,
    BESIDE,
    FORMS,
    CORE,
    AROUND.map(lambda text: " " + text),
)
ANY_VALUE = st.builds(lambda before, core, after: (core, before + core + after), AROUND, CORE, AROUND)


def nested(draw, value, depth=4):
    """``value`` somewhere in dicts, lists, tuples, keys and objects."""
    for _ in range(draw(st.integers(0, depth))):
        match draw(st.sampled_from(["dict", "key", "list", "tuple", "set", "object", "exception"])):
            case "dict":
                value = {"a": 1, draw(st.text(CHARACTERS, max_size=5)): value}
            case "key":
                value = {str(value): "x"}
            case "list":
                value = [1, value, "x"]
            case "tuple":
                value = (value, None)
            case "set":
                value = {str(value)}
            case "object":
                value = make_dataclass("Thing", ["a"])(value)
            case _:
                value = ValueError(value)
    return value


def leaked(core: str, written: str) -> bool:
    return any(core[begin : begin + PIECE] in written for begin in range(len(core) - PIECE + 1))


class Written:
    """Logs into files of its own and returns all that they hold."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def __call__(self, log) -> str:
        with configure_logging(LoggingSettings(level="DEBUG", backup_count=0), home=self._home, process="gateway"):
            log()
        files = list((self._home / "logs").iterdir())
        text = "".join(path.read_text(encoding="utf-8") for path in files)
        for path in files:
            path.unlink()
        assert "x-was-logged" in text
        return text


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    return Written(tmp_path_factory.mktemp("logs"))


many = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(SECRET_TEXTS, st.data())
def test_a_secret_that_has_a_form_of_its_own_is_found_wherever_it_is(written, capfd, secret, data):
    core, text = secret
    value = nested(data.draw, text)

    def log() -> None:
        match data.draw(st.sampled_from(["message", "field", "name", "library", "exception", "cause", "error", "id"])):
            case "message":
                logger.info(text)
            case "field":
                logger.info("x", detail=value)
            case "name":
                logger.info("x", **{text: 1})
            case "library":
                logging.getLogger("library").warning("it says %s and %r", value, value)
            case "exception":
                logger.error("x", exc_info=ValueError(value))
            case "cause":
                error = KeyError("y")
                error.__cause__ = OSError(value)
                error.add_note(text)
                logger.error("x", exc_info=error)
            case "error":
                logger.error("x", exc_info=FoundryError(text, path=value))
            case _:
                token = request_id.set(text)
                logger.info("x")
                request_id.reset(token)
        logger.info("x-was-logged")

    assert not leaked(core, written(log))
    assert not leaked(core, capfd.readouterr().err)


@many
@given(ANY_VALUE, NAMES, st.data())
def test_a_value_under_a_secrets_name_is_found_wherever_it_is(written, secret, name, data):
    core, text = secret
    raw = text.encode("utf-8", "surrogatepass")
    value = nested(data.draw, {name: data.draw(st.sampled_from([text, [text], {"a": text}, raw]))}, depth=6)
    dumped = json.dumps({"a": {name: text}, "b": [1]})

    def log() -> None:
        match data.draw(st.sampled_from(["field", "header", "dump", "dump in dump", "repr", "context", "own"])):
            case "field":
                logger.info("x", detail=value)
            case "header":
                logger.info("x", headers=[("a", "b"), (name.encode(), raw)], more=[[name, text]])
            case "dump":
                logger.info(dumped)
            case "dump in dump":
                logger.info(json.dumps({"body": dumped, "c": 1}))
            case "repr":
                logger.info(repr(value))
            case "context":
                logger.error("x", exc_info=FoundryError("y", **{name: text}))
            case _:
                logger.info("x", **{name: value})
        logger.info("x-was-logged")

    assert not leaked(core, written(log))


@settings(max_examples=150, deadline=None)
@given(SECRET_TEXTS, st.integers(0, 200))
def test_a_cut_through_a_secret_leaves_nothing_of_it(secret, before):
    core, text = secret
    padded = "." * before + " " + text + " " + "." * 300
    assert not leaked(core, redacted_text(padded, limit=120))
    assert not leaked(core, redacted_ends(padded, limit=200))


@settings(max_examples=150, deadline=None)
@given(st.text(string.ascii_lowercase + string.digits + " .,/_-()[]{}'\"\n", max_size=200))
def test_text_without_names_and_forms_is_left_alone(text):
    words = ("pass", "pin", "pwd", "sk-", "pk-", "rk-", "key", "auth", "otp", "sig", "hf_", "gh", "xox", "jwt", "ffk")
    if not any(word in text for word in words):
        assert redacted_text(text) == text
