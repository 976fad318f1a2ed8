"""Where a setting's value comes from, and what is said about a wrong one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings import Settings, describe_settings, load_settings

EMPTY = {"HOME": "/nowhere", "USERPROFILE": "/nowhere"}


@pytest.fixture
def config(tmp_path: Path):
    """Writes a configuration file and returns its path."""

    def write(content: object) -> Path:
        path = tmp_path / "config.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def failure(*arguments: object, **keywords: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(*arguments, **keywords)
    return caught.value


def test_without_any_source_every_default_holds():
    settings = load_settings(environ=EMPTY)
    assert settings.fastapi_server.port == 9696
    assert settings.foundry_service.port == 50477
    assert settings.foundry_ai.default_model == "foundry-demo:1"
    assert settings == Settings(home=settings.home)


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(config):
    path = config({"fastapi_server": {"port": 9701, "host": "127.0.0.2"}, "logging": {"backup_count": 2}})
    environ = EMPTY | {"API_PORT": "9702", "API_HOST": "127.0.0.3"}
    settings = load_settings(path, environ, {"fastapi_server.port": 9703})
    assert settings.fastapi_server.port == 9703
    assert settings.fastapi_server.host == "127.0.0.3"
    assert settings.logging.backup_count == 2
    assert settings.logging.mode == "prod"


def test_a_flag_that_was_not_given_is_none_and_changes_nothing():
    settings = load_settings(None, EMPTY | {"API_PORT": "9702"}, {"fastapi_server.port": None})
    assert settings.fastapi_server.port == 9702


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("FOUNDRY_BASE_URL", "http://localhost:50477/v1/", "foundry_ai.base_url", "http://localhost:50477"),
        ("FOUNDRY_PORT", "50500", "foundry_service.port", 50500),
        ("FOUNDRY_DEFAULT_MODEL", "phi-4-mini", "foundry_ai.default_model", "phi-4-mini"),
        ("FOUNDRY_TEMPERATURE", "0.2", "foundry_ai.temperature", 0.2),
        ("FOUNDRY_MAX_TOKENS", "99", "foundry_ai.max_tokens", 99),
        ("API_HOST", "localhost", "fastapi_server.host", "localhost"),
        ("API_PORT", " 9700 ", "fastapi_server.port", 9700),
        ("LOG_LEVEL", "debug", "logging.level", "DEBUG"),
        ("LOG_DIR", "/var/log/x", "logging.dir", Path("/var/log/x")),
        ("FASTAPI_FOUNDRY_MODE", "dev", "logging.mode", "dev"),
        ("FOUNDRY_OFFLINE", "1", "foundry_service.offline", True),
        ("FOUNDRY_OFFLINE", "off", "foundry_service.offline", False),
        ("FOUNDRY_HOME", "/srv/foundry", "home", Path("/srv/foundry")),
        ("FOUNDRY_DATABASE_URL", "postgresql://h/db", "storage.url", SecretStr("postgresql://h/db")),
        ("FASTAPI_FOUNDRY__FASTAPI_SERVER__BATCH_CONCURRENCY", "9", "fastapi_server.batch_concurrency", 9),
        (
            "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__CATALOG_URLS",
            '["https://example.org/"]',
            "foundry_service.catalog_urls",
            ["https://example.org"],
        ),
    ],
)
def test_environment_text_is_parsed_as_the_settings_type(name, text, key, value):
    settings: object = load_settings(environ=EMPTY | {name: text})
    for part in key.split("."):
        settings = getattr(settings, part)
    assert settings == value
    assert type(settings) is type(value)


def test_every_setting_can_be_given_by_its_generic_environment_name():
    samples = {"bool": "true", "int": "70000", "float": "1.5", "list": "[]", "path": "/x", "str": "x", "json": "[]"}
    special = {
        "foundry_ai.base_url": "http://127.0.0.1:1",
        "model_aliases": "{}",
        "logging.level": "INFO",
        "logging.mode": "dev",
        "storage.url": "sqlite:////x/y.db",
        "storage.pool_size": "2",
        "tls.minimum_version": "1.3",
        "foundry_service.start": "never",
        "port_management.conflict_resolution": "fail",
        "fastapi_server.host": "127.0.0.1",
        "security.require_key": "always",
        "limits.storage_url": "redis://127.0.0.1:1",
        "usage.keep_days": "2",
        "audit.keep_days": "2",
        "security.admin_key": "x" * 32,
        "fastapi_server.batch_concurrency": "2",
        "foundry_service.max_loaded_models": "2",
        "foundry_service.max_active_per_model": "2",
        "foundry_service.replicas": "2",
        "foundry_service.kept_sessions": "2",
        "foundry_service.model_replicas": '{"m": 2}',
        "logging.backup_count": "2",
        "batches.concurrency": "2",
        "batches.max_running": "2",
        "batches.file_days": "2",
        "batches.keep_days": "2",
    }
    for setting in describe_settings():
        text = special.get(setting.key) or ("9700" if "port" in setting.key and setting.kind == "int" else "")
        environ = EMPTY | {setting.environment[-1]: text or samples[setting.kind]}
        if setting.section == "tls":
            environ |= {"FASTAPI_FOUNDRY__TLS__CERTIFICATE": "/x"}
        if setting.key.endswith("port_range_start"):
            environ[setting.environment[-1].replace("START", "END")] = "9800"
        if setting.key.endswith("port_range_end"):
            environ[setting.environment[-1].replace("END", "START")] = "9600"
        load_settings(environ=environ)


def test_the_well_known_name_beats_the_generic_one():
    environ = EMPTY | {"API_PORT": "9701", "FASTAPI_FOUNDRY__FASTAPI_SERVER__PORT": "9702"}
    assert load_settings(environ=environ).fastapi_server.port == 9701


def test_an_empty_variable_counts_as_not_set():
    assert load_settings(environ=EMPTY | {"API_PORT": "", "LOG_LEVEL": " "}).fastapi_server.port == 9696


def test_the_file_in_the_home_directory_is_used_when_no_other_is_named(tmp_path, config):
    config({"fastapi_server": {"port": 9701}})
    assert load_settings(environ={"FOUNDRY_HOME": str(tmp_path)}).fastapi_server.port == 9701
    (tmp_path / ".foundry").mkdir()
    (tmp_path / "config.json").rename(tmp_path / ".foundry" / "config.json")
    home_name = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    assert load_settings(environ=home_name).fastapi_server.port == 9701


def test_a_file_named_by_the_environment_must_exist(tmp_path):
    error = failure(environ=EMPTY | {"FASTAPI_FOUNDRY_CONFIG": str(tmp_path / "gone.json")})
    assert error.source == "FASTAPI_FOUNDRY_CONFIG"
    assert "gone.json" in error.message


def test_a_file_named_by_a_flag_must_exist(tmp_path):
    assert "cannot be read" in failure(tmp_path / "gone.json", EMPTY).message


def test_an_unknown_key_is_named_with_its_file_and_the_nearest_known_name(config):
    path = config({"fastapi_server": {"prot": 1}})
    error = failure(path, EMPTY)
    assert (error.key, error.source) == ("fastapi_server.prot", str(path))
    assert "'fastapi_server.port'" in error.reason


def test_an_unknown_section_is_named_with_the_nearest_known_one(config):
    error = failure(config({"fastapi_sever": {}}), EMPTY)
    assert error.key == "fastapi_sever"
    assert "'fastapi_server'" in error.reason


def test_an_unknown_variable_with_our_prefix_is_an_error():
    error = failure(environ=EMPTY | {"FASTAPI_FOUNDRY__LOGING__MODE": "dev"})
    assert error.source == "FASTAPI_FOUNDRY__LOGING__MODE"
    assert "FASTAPI_FOUNDRY__LOGGING__MODE" in error.reason


def test_an_unknown_flag_is_an_error():
    error = failure(None, EMPTY, {"fastapi_server.prt": 1})
    assert error.source == "command line"
    assert "'fastapi_server.port'" in error.reason


def test_text_in_the_file_is_no_number(config):
    error = failure(config({"fastapi_server": {"port": "yes"}}), EMPTY)
    assert error.key == "fastapi_server.port"
    assert error.reason == "must be a whole number, not 'yes'"


@pytest.mark.parametrize("value", [True, 9700.5, "9700", None, [9700], -1, 65536])
def test_a_wrong_port_in_the_file_is_refused(config, value):
    assert failure(config({"fastapi_server": {"port": value}}), EMPTY).key == "fastapi_server.port"


@pytest.mark.parametrize("name", ["port_management", "foundry_service"])
def test_a_range_whose_ends_are_swapped_is_refused(config, name):
    path = config({name: {"port_range_start": 60000, "port_range_end": 50000}})
    error = failure(path, EMPTY)
    assert (error.key, error.source) == (f"{name}.port_range_start", str(path))
    assert "60000 to 50000" in error.reason


def test_a_range_that_contradicts_a_default_names_what_was_given():
    name = "FASTAPI_FOUNDRY__PORT_MANAGEMENT__PORT_RANGE_END"
    assert failure(environ=EMPTY | {name: "9000"}).source == name


@pytest.mark.parametrize("value", [-0.1, 2.1, "0.5", True])
def test_a_temperature_outside_0_to_2_is_refused(config, value):
    assert failure(config({"foundry_ai": {"temperature": value}}), EMPTY).key == "foundry_ai.temperature"


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "3", "warm"])
def test_a_temperature_that_is_none_is_refused_in_the_environment(value):
    assert failure(environ=EMPTY | {"FOUNDRY_TEMPERATURE": value}).source == "FOUNDRY_TEMPERATURE"


@pytest.mark.parametrize("value", [0, -5.0])
def test_a_timeout_must_be_positive(config, value):
    assert "above 0" in failure(config({"foundry_ai": {"timeout_s": value}}), EMPTY).reason


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1",
        "127.0.0.1:50477",
        "http://",
        "http://u:p@127.0.0.1",
        "http://127.0.0.1/?a=1",
        "http://[::1",
        "",
    ],
)
def test_an_engine_address_that_is_none_is_refused(config, url):
    assert failure(config({"foundry_ai": {"base_url": url}}), EMPTY).key == "foundry_ai.base_url"


@pytest.mark.parametrize("host", ["10.0.0.1", "example.org", "0.0.0.0", "localhost.example.org", "[fe80::1]"])
def test_an_engine_on_another_machine_is_refused_with_the_reason(config, host):
    assert "loopback" in failure(config({"foundry_ai": {"base_url": f"http://{host}:50477"}}), EMPTY).reason


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.9.9"])
def test_an_engine_on_this_machine_is_accepted_in_every_spelling(config, host):
    settings = load_settings(config({"foundry_ai": {"base_url": f"http://{host}:1/v1/"}}), EMPTY)
    assert settings.foundry_ai.base_url == f"http://{host}:1"


@pytest.mark.parametrize(
    ("security", "key", "words"),
    [
        ({"require_key": "sometimes"}, "security.require_key", "always"),
        ({"admin_key": "short"}, "security.admin_key", "32"),
        ({"allowed_hosts": ["http://x"]}, "security.allowed_hosts", "without a scheme"),
        ({"allowed_hosts": ["x:80"]}, "security.allowed_hosts", "port"),
        ({"allowed_origins": ["example.org"]}, "security.allowed_origins", "http://"),
        ({"allowed_origins": ["https://example.org/page"]}, "security.allowed_origins", "without a path"),
        ({"allowed_origins": ["*"]}, "security.allowed_origins", "'always'"),
        (
            {"allowed_origins": ["*"], "require_key": "always", "allow_credentials": True},
            "security.allowed_origins",
            "name the origins",
        ),
        ({"session_hours": 0}, "security.session_hours", "0"),
    ],
)
def test_what_would_open_the_door_is_refused_with_the_reason(config, security, key, words):
    error = failure(config({"security": security}), EMPTY)
    assert error.key == key
    assert words in error.reason
    assert "short" not in str(error)


def test_origins_and_hosts_are_kept_as_browsers_send_them(config):
    given = {"allowed_origins": ["HTTPS://Chat.Example.org/"], "allowed_hosts": ["Proxy.Example.org.", "[::1]"]}
    security = load_settings(config({"security": given}), EMPTY).security
    assert security.allowed_origins == ["https://chat.example.org"]
    assert security.allowed_hosts == ["proxy.example.org", "::1"]


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:geheim@h/db",
        "postgresql://u:ge/heim@h:5432/db",
        "postgresql://u:geheim@h",
        "postgresql:u:geheim",
        "sqlite:///geheim.db",
        "geheim",
        ["geheim"],
        {"geheim": 1},
    ],
)
def test_a_database_address_that_is_none_is_refused_and_never_repeated(config, url):
    error = failure(config({"storage": {"url": url}}), EMPTY)
    assert error.key == "storage.url"
    assert "heim" not in f"{error} {error.reason} {error.__cause__}"


def test_the_database_address_is_masked_where_settings_are_shown(config):
    settings = load_settings(config({"storage": {"url": "postgresql://u:geheim@h/db"}}), EMPTY)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "geheim" not in shown


def test_an_empty_default_model_is_refused(config):
    assert "empty" in failure(config({"foundry_ai": {"default_model": "  "}}), EMPTY).reason


@pytest.mark.parametrize("level", ["loud", "10"])
def test_an_unknown_log_level_is_refused_with_the_known_ones(level):
    error = failure(environ=EMPTY | {"LOG_LEVEL": level})
    assert (error.key, error.source) == ("logging.level", "LOG_LEVEL")
    assert "WARNING" in error.reason


def test_malformed_json_names_line_and_column(config):
    error = failure(config('{\n  "logging": {,}\n}'), EMPTY)
    assert "line 2, column 15" in error.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "JSON object"),
        ('{"logging": 5}', "object"),
        ('{"foundry_ai": {"temperature": NaN}}', "NaN"),
        ('{"logging": {}, "logging": {}}', "twice"),
        ("[" * 100_000, "nested"),
        ('{"fastapi_server": {"port": ' + "9" * 5000 + "}}", ""),
        ("", "line 1"),
        (" " * 1_100_000, "larger"),
    ],
)
def test_a_file_that_cannot_be_understood_is_one_clear_error(config, content, words):
    assert words in failure(config(content), EMPTY).message


def test_a_file_that_is_not_utf8_is_one_clear_error(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'{"home": "\xff"}')
    assert "UTF-8" in failure(path, EMPTY).message


def test_a_byte_order_mark_is_tolerated(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"fastapi_server": {"port": 9701}}', encoding="utf-8-sig")
    assert load_settings(path, EMPTY).fastapi_server.port == 9701


def test_a_relative_directory_starts_at_the_file_or_at_the_current_directory(tmp_path, config, monkeypatch):
    monkeypatch.chdir("/")
    assert load_settings(config({"logging": {"dir": "logs"}}), EMPTY).logging.dir == tmp_path / "logs"
    assert load_settings(environ=EMPTY | {"LOG_DIR": "logs"}).logging.dir == Path("/logs")


def test_logs_are_in_the_home_directory_unless_told_otherwise():
    assert load_settings(environ={"FOUNDRY_HOME": "/srv"}).log_directory == Path("/srv/logs")
    assert load_settings(environ={"FOUNDRY_HOME": "/srv", "LOG_DIR": "/l"}).log_directory == Path("/l")


def test_an_empty_home_variable_never_means_the_root_directory():
    assert load_settings(environ={"HOME": ""}).home != Path("/.foundry")


def test_settings_cannot_be_changed():
    settings = load_settings(environ=EMPTY)
    with pytest.raises(ValueError, match="frozen"):
        settings.fastapi_server.port = 1


def test_loading_takes_less_than_10_ms(config):
    path = config({"fastapi_server": {"port": 9701}})
    durations = []
    for _ in range(5):
        begin = time.perf_counter()
        load_settings(path, EMPTY)
        durations.append(time.perf_counter() - begin)
    assert min(durations) < 0.010


def test_importing_settings_reads_nothing_and_imports_nothing_heavy():
    code = (
        "import sys; seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append(args[0]) if event == 'open' else None)\n"
        "import fastapi_foundry.settings\n"
        "assert not [name for name in seen if 'config.json' in str(name)]\n"
        "heavy = {'fastapi', 'uvicorn', 'rich', 'typer', 'structlog', 'foundry_local_sdk', 'numpy', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
