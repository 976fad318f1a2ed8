"""Certificates: what is refused, what is warned of, what clients get, and what happens when the files change."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.server.tls import CertificateFiles, load_certificate
from fastapi_foundry.settings import TlsSettings, load_settings
from tests.support.bounded_server import BoundedServer, bounded_server, read_answer, read_until_closed
from tests.support.tls_files import Pair, fingerprint_of, make_pair, trusting
from tests.support.waiting import eventually_sync

GET = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path / "tls")


def settings(pair: Pair, **more: object) -> TlsSettings:
    return TlsSettings.model_validate({"certificate": pair.certificate, "private_key": pair.key, **more})


def secure(server: BoundedServer, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(server.connect(), server_hostname="localhost")


def shown_fingerprint(server: BoundedServer, *trusted: Path) -> bytes:
    with secure(server, trusting(*trusted)) as sock:
        return fingerprint_of(sock.getpeercert(binary_form=True))


def refusal(pair: Pair, **more: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_certificate(settings(pair, **more))
    return caught.value


def test_a_file_that_cannot_be_read_is_named_with_its_setting(pair: Pair) -> None:
    gone = Pair(pair.certificate.with_name("gone.pem"), pair.key)
    assert refusal(gone).key == "tls.certificate"
    assert "gone.pem: tls.certificate: cannot be read: No such file" in refusal(gone).message
    assert "tls.private_key: cannot be read" in refusal(Pair(pair.certificate, pair.key.parent)).message


def test_a_file_of_another_kind_is_named_with_what_it_should_hold(pair: Pair) -> None:
    swapped = refusal(Pair(pair.key, pair.certificate))
    assert "tls.certificate: holds no certificate in PEM form" in swapped.message
    pair.certificate.write_bytes(ssl.PEM_cert_to_DER_cert(pair.certificate.read_text()))
    assert "openssl x509 -inform der" in refusal(pair).message


@pytest.mark.parametrize("broken", ["certificate", "key"])
def test_a_damaged_file_is_refused(pair: Pair, broken: str) -> None:
    path: Path = getattr(pair, broken)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(line[::-1] for line in lines[1:-1]), lines[-1]]))
    assert str(pair.certificate) in refusal(pair).message


def test_a_key_of_another_certificate_is_refused(pair: Pair, tmp_path: Path) -> None:
    other = make_pair(tmp_path / "other")
    fact = refusal(Pair(pair.certificate, other.key))
    assert fact.key == "tls.private_key"
    assert fact.message.endswith(f"does not belong to the certificate in {pair.certificate}")


def test_the_password_of_a_key_is_needed_and_never_repeated(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, password="correct horse")
    assert "set tls.private_key_password" in refusal(pair).message
    wrong = refusal(pair, private_key_password="battery staple")
    assert wrong.key == "tls.private_key_password"
    assert wrong.__cause__ is None
    assert "battery" not in wrong.message
    right = settings(pair, private_key_password="correct horse")
    assert load_certificate(right).names == ("localhost",)
    assert "horse" not in repr(right)


def test_certificate_and_key_may_be_in_one_file(pair: Pair) -> None:
    pair.certificate.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    pair.certificate.chmod(0o600)
    found = load_certificate(TlsSettings(certificate=pair.certificate))
    assert found.warnings == ()


def test_a_key_without_a_certificate_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"tls\.private_key: is of no use without tls\.certificate"):
        load_settings(None, {"HOME": str(tmp_path), "FASTAPI_FOUNDRY__TLS__PRIVATE_KEY": "key.pem"})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"ends_days": -0.5}, "expired on"),
        ({"ends_days": 5}, "expires on"),
        ({"begins_days": 1}, "is valid from"),
        ({"hosts": ()}, "names no host"),
    ],
)
def test_a_certificate_that_clients_will_refuse_works_with_a_warning(
    tmp_path: Path, more: dict[str, float], says: str
) -> None:
    pair = make_pair(tmp_path, **more)  # type: ignore[arg-type]
    (warning,) = load_certificate(settings(pair)).warnings
    assert says in warning
    assert str(pair.certificate) in warning


def test_a_key_that_everybody_can_read_is_warned_of_and_one_of_a_group_is_not(pair: Pair) -> None:
    for mode, warned in ((0o600, 0), (0o640, 0), (0o644, 1)):
        pair.key.chmod(mode)
        warnings = load_certificate(settings(pair)).warnings
        assert len(warnings) == warned
        assert all("chmod 600" in warning for warning in warnings)


def test_clients_are_served_by_tls_and_old_versions_are_refused(pair: Pair, tmp_path: Path) -> None:
    with bounded_server(tmp_path, tls=settings(pair, minimum_version="1.3"), head_timeout_s=0.4) as server:
        context = trusting(pair.certificate)
        context.set_alpn_protocols(["h2", "http/1.1"])
        with secure(server, context) as sock:
            assert (sock.version(), sock.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
            sock.sendall(GET % b"")
            assert read_answer(sock).endswith(b"hello")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            secure(server, context)
        with pytest.raises(ssl.SSLCertVerificationError):
            trusting(pair.certificate).wrap_socket(server.connect(), server_hostname="other")
        assert b"HTTP" not in server.send(GET % b"")
        eventually_sync(lambda: server.server.bounds.taken == 0)


def test_the_bounds_hold_behind_tls_and_for_handshakes_that_stall(pair: Pair, tmp_path: Path) -> None:
    with bounded_server(
        tmp_path, tls=settings(pair), head_timeout_s=0.3, write_timeout_s=0.4, max_connections_per_client=3
    ) as server:
        context = trusting(pair.certificate)
        with server.connect() as silent, server.connect() as slow, secure(server, context) as late:
            slow.sendall(b"\x16\x03\x01")
            late.sendall(b"GET /v1/models HTTP/1.1\r\n")
            with secure(server, context) as fourth:
                fourth.sendall(GET % b"v1/models")
                assert read_answer(fourth).startswith(b"HTTP/1.1 503 ")
            begun = time.monotonic()
            assert read_answer(late).startswith(b"HTTP/1.1 408 ")
            assert read_until_closed(silent) == b""
            read_until_closed(slow)
            assert time.monotonic() - begun < 2
        with context.wrap_socket(server.connect(receive_buffer=8192), server_hostname="localhost") as deaf:
            deaf.sendall(GET % b"deaf/stream")
            server.eventually_logged("gone /deaf/stream None")
        eventually_sync(lambda: server.server.bounds.taken == 0)


def test_changed_files_are_used_for_new_connections_and_open_ones_go_on(pair: Pair, tmp_path: Path) -> None:
    before = pair.certificate.with_name("before.pem")
    before.write_bytes(pair.certificate.read_bytes())
    with bounded_server(tmp_path, tls=settings(pair, reload_check_s=0.05)) as server:
        first = pair.fingerprint
        assert shown_fingerprint(server, pair.certificate) == first
        with secure(server, trusting(before)) as old:
            old.sendall(GET % b"old/stream")
            received = len(old.recv(65_536))
            second = make_pair(pair.certificate.parent).fingerprint
            assert first != second
            eventually_sync(lambda: shown_fingerprint(server, before, pair.certificate) == second)
            while received < 67_108_864:
                received += len(old.recv(262_144))
            server.eventually_logged("end /old/stream")


def test_a_broken_new_pair_is_logged_and_the_old_one_kept(
    pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with bounded_server(tmp_path, tls=settings(pair, reload_check_s=0.05)) as server, caplog.at_level(logging.INFO):
        good, content = pair.fingerprint, pair.certificate.read_bytes()
        copy = pair.certificate.with_name("copy.pem")
        copy.write_bytes(content)
        pair.certificate.write_bytes(make_pair(tmp_path / "other").certificate.read_bytes())
        eventually_sync(lambda: "the old one stays" in caplog.text)
        assert "does not belong" in caplog.text
        assert shown_fingerprint(server, copy) == good
        time.sleep(0.3)
        assert caplog.text.count("the old one stays") == 1
        pair.certificate.unlink()
        eventually_sync(lambda: caplog.text.count("the old one stays") == 2)
        assert shown_fingerprint(server, copy) == good
        make_pair(pair.certificate.parent)
        eventually_sync(lambda: shown_fingerprint(server, copy, pair.certificate) == pair.fingerprint)


async def test_files_are_read_when_both_have_come_to_rest(pair: Pair, tmp_path: Path) -> None:
    other = make_pair(tmp_path / "other")
    files = CertificateFiles(settings(pair))
    before = files.current
    for path, content in ((pair.key, other.key), (pair.certificate, other.certificate)):
        path.write_bytes(content.read_bytes())
        await files.look()
        assert files.current is before
    await files.look()
    assert files.current is not before
    after = files.current
    for _ in range(3):
        await files.look()
        assert files.current is after


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGHUP")
def test_the_certificate_is_read_again_at_once_when_that_is_asked_for(pair: Pair, tmp_path: Path) -> None:
    with bounded_server(tmp_path, tls=settings(pair, reload_check_s=3600)) as server:
        second = make_pair(pair.certificate.parent).fingerprint
        # The signal's handler needs the main thread, which is not the server's here; tests/integration sends a real one.
        server.server._handle_hangup(signal.SIGHUP, None)
        eventually_sync(lambda: shown_fingerprint(server, pair.certificate) == second)


def test_a_server_that_stops_breaks_off_handshakes(pair: Pair, tmp_path: Path) -> None:
    with bounded_server(tmp_path, tls=settings(pair)) as server:
        stalled = server.connect()
        eventually_sync(lambda: server.server.bounds.taken == 1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 2
    with stalled:
        assert read_until_closed(stalled) == b""


def test_no_connection_is_lost_when_many_come_at_once(pair: Pair, tmp_path: Path) -> None:
    with bounded_server(tmp_path, tls=settings(pair)) as server:
        context = trusting(pair.certificate)
        socks: list[socket.socket] = [server.connect() for _ in range(40)]
        for sock in socks:
            with context.wrap_socket(sock, server_hostname="localhost") as wrapped:
                wrapped.sendall(GET % b"")
                assert read_answer(wrapped).endswith(b"hello")
