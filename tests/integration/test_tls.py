"""https from end to end: the command that makes a certificate, the gateway that shows it, the commands that trust it."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import ssl
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.cli import CliOutcome, cli_in_a_pipe, cli_on_a_terminal
from tests.support.processes import ProductProcess, gateway_process
from tests.support.tls_files import Pair, fingerprint_of, make_pair, trusting
from tests.support.waiting import eventually_sync


def get(url: str, path: str, context: ssl.SSLContext) -> tuple[int, bytes, bytes]:
    """Status, body and the fingerprint of the certificate that was shown."""
    parts = urlsplit(url)
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=10, context=context)
    try:
        connection.request("GET", path)
        shown = fingerprint_of(connection.sock.getpeercert(binary_form=True))
        answer = connection.getresponse()
        return answer.status, answer.read(), shown
    finally:
        connection.close()


def self_signed(home: Path, *options: object) -> CliOutcome:
    return cli_in_a_pipe(home, "tls", "self-signed", *options)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """What ``tls self-signed`` made."""
    home = tmp_path_factory.mktemp("made")
    made = self_signed(home, "--host", "gateway.test", "--host", "192.0.2.7", "--days", "30", "--json").json
    assert made["hosts"] == ["gateway.test", "192.0.2.7", "localhost", "127.0.0.1", "::1"]
    return Pair(Path(made["certificate"]), Path(made["private_key"]))


@pytest.fixture(scope="module")
def gateway(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> ProductProcess:
    home = tmp_path_factory.mktemp("home")
    with gateway_process(home, arguments=["--port", "0"], env=pair.environment) as process:
        yield process


def test_the_certificate_is_for_its_hosts_and_the_key_for_its_owner(pair: Pair) -> None:
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
    context = trusting(pair.certificate)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*pair)
    for host, accepted in (("gateway.test", True), ("192.0.2.7", True), ("localhost", True), ("other.test", False)):
        assert _shake_hands(context, server, host) is accepted


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> bool:
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(theirs, ours, server_hostname=host), server.wrap_bio(ours, theirs, server_side=True)]
    for side in sides * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_what_is_there_is_not_overwritten_but_by_force(tmp_path: Path) -> None:
    first = self_signed(tmp_path, "--out", tmp_path / "out")
    assert first.code == 0
    for word in ("--cacert", "SSL_CERT_FILE", '"tls": {"certificate"', "SHA-256"):
        assert word in first.out
    content = (tmp_path / "out" / "certificate.pem").read_bytes()
    again = self_signed(tmp_path, "--out", tmp_path / "out")
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "--force" in again.err
    assert (tmp_path / "out" / "certificate.pem").read_bytes() == content
    assert self_signed(tmp_path, "--out", tmp_path / "out", "--force").code == 0
    assert (tmp_path / "out" / "certificate.pem").read_bytes() != content
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["certificate.pem", "private-key.pem"]


@pytest.mark.parametrize("host", ["a b", "../x", "-a.test", "", "x" * 300, "http://a.test"])
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    outcome = self_signed(tmp_path, "--host", host)
    assert outcome.code == 2
    assert not (tmp_path / "tls").exists()


def test_the_gateway_speaks_https_and_says_so(gateway: ProductProcess, pair: Pair) -> None:
    assert gateway.url.startswith("https://127.0.0.1:")
    status, body, shown = get(gateway.url, "/api/v1/version", trusting(pair.certificate))
    assert (status, json.loads(body)["name"], shown) == (200, "fastapi-foundry", pair.fingerprint)
    with pytest.raises(ssl.SSLCertVerificationError):
        get(gateway.url, "/api/v1/version", ssl.create_default_context())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_verifies_the_connection(gateway: ProductProcess, pair: Pair) -> None:
    command = [
        "openssl",
        "s_client",
        "-connect",
        gateway.url.removeprefix("https://"),
        "-CAfile",
        str(pair.certificate),
    ]
    command += ["-verify_hostname", "gateway.test", "-verify_return_error", "-brief"]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=20, check=False)
    assert b"Verification: OK" in done.stderr, done.stderr
    assert b"TLSv1.3" in done.stderr


@pytest.mark.parametrize("with_settings", [True, False])
def test_the_commands_find_it_and_trust_this_very_certificate(
    gateway: ProductProcess, pair: Pair, *, with_settings: bool
) -> None:
    env = pair.environment if with_settings else None
    found = cli_in_a_pipe(gateway.home, "status", "--json", env=env).json["gateway"]
    assert (found["running"], found["url"]) == (True, gateway.url)
    record = json.loads((gateway.home / "gateway.json").read_text())
    assert record["certificate"] == str(pair.certificate)
    answer = cli_in_a_pipe(gateway.home, "chat", "Hello", "--json", env=env)
    assert answer.code == 0, answer.err


def test_a_record_that_points_to_somebody_elses_server_is_not_trusted(gateway: ProductProcess, tmp_path: Path) -> None:
    other = make_pair(tmp_path / "other")
    record = {"url": gateway.url, "pid": 1, "certificate": str(other.certificate)}
    (tmp_path / "gateway.json").write_text(json.dumps(record))
    assert cli_in_a_pipe(tmp_path, "status", "--json").json["gateway"] == {"running": False}


def test_what_the_issuer_of_the_certificate_has_signed_besides_is_not_trusted(
    gateway: ProductProcess, pair: Pair, tmp_path: Path
) -> None:
    other = make_pair(tmp_path / "other")
    chain = tmp_path / "chain.pem"
    record = {"url": gateway.url, "pid": 1, "certificate": str(chain)}
    (tmp_path / "gateway.json").write_text(json.dumps(record))
    for files, running in (((pair, other), True), ((other, pair), False)):
        chain.write_bytes(b"".join(file.certificate.read_bytes() for file in files))
        assert cli_in_a_pipe(tmp_path, "status", "--json").json["gateway"]["running"] is running


def test_sighup_brings_the_new_certificate_and_the_process_lives(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "tls", hosts=("localhost", "127.0.0.1"))
    env = pair.environment | {"FASTAPI_FOUNDRY__TLS__RELOAD_CHECK_S": "3600"}
    with gateway_process(tmp_path / "home", arguments=["--port", "0"], env=env) as process:
        url = process.url.replace("127.0.0.1", "localhost")
        assert get(url, "/api/v1/version", trusting(pair.certificate))[2] == pair.fingerprint
        make_pair(tmp_path / "tls")
        process.popen.send_signal(signal.SIGHUP)
        eventually_sync(lambda: get(url, "/api/v1/version", trusting(pair.certificate))[2] == pair.fingerprint)
        assert process.popen.poll() is None


def test_the_banner_names_https_and_a_warning_comes_before_it(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "tls", ends_days=-1, begins_days=-2)
    pair.key.chmod(0o644)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"tls": {"certificate": "tls/certificate.pem", "private_key": "tls/key.pem"}}))
    with cli_on_a_terminal(tmp_path / "home", "--config", str(config), "serve", "--port", "0") as terminal:
        terminal.until(r"Warning: .*certificate.pem: the certificate expired on \d{4}-\d\d-\d\d")
        terminal.until(r"chmod 600")
        terminal.until(r"Open\s+https://127\.0\.0\.1:\d+")
        terminal.until(r"OpenAI API\s+https://127\.0\.0\.1:\d+/v1")
        terminal.type("\x03")
        assert terminal.ended() in {0, 130}


def test_a_wrong_pair_ends_the_start_in_one_line_that_names_setting_and_file(tmp_path: Path) -> None:
    pair, other = make_pair(tmp_path / "a"), make_pair(tmp_path / "b")
    outcome = cli_in_a_pipe(tmp_path / "home", "serve", env=Pair(pair.certificate, other.key).environment)
    assert outcome.code == 2
    assert re.fullmatch(r"Error: \S+/b/key\.pem: tls\.private_key: does not belong to .*\n", outcome.err)
