"""tools/supply_chain/audit.py: the real pip-audit, asking a stand-in of the vulnerability service."""

from __future__ import annotations

import datetime as dt
import json
import socket
import time
import tomllib

import pytest

from tests.support.vulnerability_service import running_vulnerability_service, vulnerability

LOCK = """\
fastapi==0.165.0 \\
    --hash=sha256:{h}
    # via fastapi-foundry (pyproject.toml)
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:{h}
    # via
    #   onnxruntime
    #   onnxruntime-genai-core
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:{h}
    # via onnxruntime
requests==2.34.2 \\
    --hash=sha256:{h}
    # via foundry-local-sdk
"""
TODAY = dt.datetime.now(tz=dt.UTC).date()


@pytest.fixture
def audit(supply_chain, tmp_path, monkeypatch, capsys):
    """Runs the audit of a small lock; the result is the exit status and what was printed."""
    module = supply_chain("audit")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK.format(h="a" * 64))

    def run(url: str, *options: str, exceptions: str = "") -> tuple[int, str]:
        page = tmp_path / "exceptions.toml"
        page.write_text(exceptions)
        status = module.main(["--lock", str(lock), "--exceptions", str(page), "--osv-url", url, *options])
        return status, capsys.readouterr().out

    run.module = module
    return run


def exception(until: dt.date, package: str = "numpy", identifier: str = "CVE-2099-1") -> str:
    return f'[[vulnerability]]\nid = "{identifier}"\npackage = "{package}"\nreason = "not called"\nuntil = {until}\n'


def test_a_finding_fails_and_only_names_and_versions_are_sent(audit, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("NETRC", str(netrc))
    found = {"numpy": [vulnerability("numpy", "PYSEC-2099-1", "CVE-2099-1")]}
    with running_vulnerability_service(tmp_path, vulns=found) as service:
        status, said = audit(service.url)
        asked = service.requests()
    assert status == 1
    assert "numpy 2.4.6: CVE-2099-1, PYSEC-2099-1; mended in 99" in said
    assert "numpy 2.5.5: CVE-2099-1, PYSEC-2099-1; mended in 99" in said
    bodies = [json.loads(request["body"]) for request in asked]
    assert all(body.keys() == {"package", "version"} for body in bodies)
    assert all(body["package"] == {"name": body["package"]["name"], "ecosystem": "PyPI"} for body in bodies)
    sent = {(body["package"]["name"], body["version"]) for body in bodies}
    assert sent == {("fastapi", "0.165.0"), ("numpy", "2.4.6"), ("numpy", "2.5.5"), ("requests", "2.34.2")}
    headers = {name.lower() for request in asked for name in request["headers"]}
    assert headers <= {"host", "user-agent", "accept", "accept-encoding", "connection", "content-length"}
    assert {request["path"] for request in asked} == {"/v1/query"}


@pytest.mark.parametrize(
    ("page", "status", "words"),
    [
        (exception(TODAY), 0, "(1 explained)"),
        (exception(TODAY, identifier="PYSEC-2099-1"), 0, "(1 explained)"),
        (exception(TODAY - dt.timedelta(days=1)), 1, "must be looked at again"),
        (exception(TODAY + dt.timedelta(days=91)), 1, "must be looked at again"),
        (exception(TODAY, package="requests"), 1, "matches nothing any more"),
        (exception(TODAY, identifier="CVE-2099-2"), 1, "matches nothing any more"),
    ],
)
def test_an_exception_counts_for_its_package_and_for_its_time(audit, capsys, page, status, words):
    found = {"name": "numpy", "version": "1", "vuln": {"id": "PYSEC-2099-1", "aliases": ["CVE-2099-1"]}}
    answer = audit.module.Answer([found], [])
    assert audit.module._report(answer, 4, "S", tomllib.loads(page)["vulnerability"]) == status
    assert words in capsys.readouterr().out


def unused_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_a_service_that_is_not_there_is_said_plainly_and_is_no_failure(audit):
    url = f"http://127.0.0.1:{unused_port()}/v1/query"
    begin = time.monotonic()
    status, said = audit(url)
    assert time.monotonic() - begin < 10
    assert status == 0
    assert "The given service could not be asked: " in said
    assert "NOT CHECKED" in said
    assert audit(url, "--require")[0] == 1


@pytest.mark.parametrize("answers", [{"status": 500}, {"raw": "<html>sign in to the network</html>"}])
def test_an_answer_that_is_none_is_not_taken_for_all_being_well(audit, tmp_path, answers):
    with running_vulnerability_service(tmp_path, **answers) as service:
        status, said = audit(service.url)
    assert status == 0
    assert "NOT CHECKED" in said
    assert "knows no vulnerability" not in said


def test_a_service_that_hangs_costs_seconds(audit, tmp_path, monkeypatch):
    monkeypatch.setattr(audit.module, "_PROBE_S", 1.5)
    with running_vulnerability_service(tmp_path, delay_s=60) as service:
        begin = time.monotonic()
        status, said = audit(service.url)
        assert time.monotonic() - begin < 6
    assert status == 0
    assert "no answer within" in said
    assert "NOT CHECKED" in said


# Writes what pip-audit 2.10 wrote when a mirror stood in PyPI's place that has no pages of single versions.
MIRRORED = """
import json, sys
options = dict(zip(sys.argv, sys.argv[1:]))
names = [line.strip().split("==") for line in open(options["--requirement"])]
if options["--vulnerability-service"] == "pypi":
    rows = [{"name": n, "skip_reason": f"Dependency not found on PyPI and could not be audited: {n} ({v})"} for n, v in names]
    json.dump({"dependencies": rows, "fixes": []}, open(options["--output"], "w"))
print("No known vulnerabilities found", file=sys.stderr)
"""


def test_a_mirror_that_knows_no_versions_is_no_answer_and_the_next_service_is_asked(
    supply_chain, tmp_path, monkeypatch, capsys
):
    (tmp_path / "pip_audit").mkdir()
    (tmp_path / "pip_audit" / "__init__.py").write_text("")
    (tmp_path / "pip_audit" / "__main__.py").write_text(MIRRORED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # should the real one run, it reaches nobody
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK.format(h="a" * 64))
    page = tmp_path / "exceptions.toml"
    page.write_text("")
    assert supply_chain("audit").main(["--lock", str(lock), "--exceptions", str(page)]) == 0
    said = capsys.readouterr().out
    assert "PyPI could not be asked: what answers in its name does not know fastapi 0.165.0" in said
    assert "4 packages: OSV knows no vulnerability" in said
