"""Ten thousand hostile inputs against a real gateway: no 5xx, no file outside its home, no secret in a log file.

    python -m tests.faults.hostile_inputs [--inputs 10000] [--seed 1]

The gateway runs with keys, in front of a double of Foundry Local that answers at once, under strace where that is
installed. Sent are: requests that schemathesis makes from the gateway's own OpenAPI document; JSON bodies broken and bent
in every way; lists of traversals and injections in every place where a name can stand; raw bytes on the socket. It prints
what was sent and what came back, and exits with 1 when something must not be.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import importlib.util
import json
import random
import re
import secrets
import shutil
import socket
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tests.support.doubles import running_double
from tests.support.http import ask
from tests.support.processes import ProductProcess, gateway_process
from tests.support.waiting import eventually_sync

MODEL = "phi-x-generic-cpu:2"
CANARY = "canary-that-nobody-may-read"
OPENED = re.compile(r"(?:open|openat|creat|unlink|unlinkat|rename|renameat2?|mkdir|mkdirat)\(([^)]*)")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')

TRAVERSALS = (
    "../../../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "....//....//....//etc/passwd",
    "..\\..\\..\\windows\\win.ini",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd",
    "/etc/passwd",
    "file:///etc/passwd",
    "foundry-demo:1/../../../etc/passwd",
    "~/.ssh/id_rsa",
    "C:\\Windows\\system32",
    "\\\\127.0.0.1\\share\\x",
    "con:1",
    "..",
    ".",
    "a/./b/../../c",
    "{canary}",
    "../{canary}",
)
INJECTIONS = (
    "' OR '1'='1",
    "'; DROP TABLE api_keys; --",
    '" UNION SELECT hash FROM api_keys --',
    "$(touch /tmp/pwned)",
    "`id`",
    "; cat /etc/passwd",
    "| nc 127.0.0.1 1",
    "${{7*7}}",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "%0d%0aSet-Cookie: a=b",
    "a\r\nX-Injected: 1",
    "a\x00b",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "\u202egnp.exe",
    "%n%n%n%s%s",
    "x" * 5000,
    "é" * 300,
    "-1",
    "NaN",
    "__proto__",
    "constructor",
    "http://169.254.169.254/latest/meta-data",
    "gopher://127.0.0.1:1/_",
    "ffk_" + "0" * 38,
)


@dataclass
class Findings:
    """What was sent and what came back."""

    sent: collections.Counter[str] = field(default_factory=collections.Counter)
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)

    def answered(self, kind: str, status: int, body: bytes, what: str) -> None:
        self.sent[kind] += 1
        self.statuses[status] += 1
        if status >= 500:
            self.wrong.append(f"{kind}: {status} for {what[:900]!r}: {body[:200]!r}")
        if CANARY.encode() in body or b"root:x:0:0" in body:
            self.wrong.append(f"{kind}: a file was shown for {what[:200]!r}")


@dataclass
class Target:
    """The gateway, the keys that are used with it, and the file that nobody may read."""

    url: str
    home: Path
    keys: list[str]
    canary: Path

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value.encode("latin-1", "replace"))
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.read(1_000_000)
        finally:
            connection.close()


def bent(value: Any, chance: random.Random) -> Any:
    """``value`` with one place in it replaced by something that does not belong there."""
    odd: list[Any] = [
        None, True, -1, 0, 1e308, 10**30, "", "x" * 10_000, [], {}, [[[[[]]]]], {"a": {"b": {}}}, "\u0000", "\ud83d\ude00",
        float("inf"), *INJECTIONS[:6],
    ]  # fmt: skip
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice(list(value))
        if chance.random() < 0.2:
            return {other: entry for other, entry in value.items() if other != name}
        return value | {name: bent(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [*value[:at], bent(value[at], chance), *value[at + 1 :]]
    return chance.choice(odd)


BODIES: dict[str, Any] = {
    "/v1/chat/completions": {
        "model": MODEL,
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "t"}]}],
        "max_tokens": 3,
        "temperature": 0.5,
        "stop": ["x"],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "stream_options": {"include_usage": True},
    },
    "/v1/completions": {"model": MODEL, "prompt": "p", "max_tokens": 3, "n": 1, "stop": "x", "seed": 1},
    "/v1/embeddings": {"model": MODEL, "input": ["a", "b"], "encoding_format": "float", "dimensions": 3},
    "/api/v1/generate": {"prompt": "p", "model": MODEL, "max_tokens": 3, "system": "s", "stop": ["x"]},
    "/api/v1/generate/batch": {"prompts": ["a", {"prompt": "b", "max_tokens": 2}], "model": MODEL, "max_tokens": 3},
    "/api/v1/keys": {"name": "n", "scopes": ["chat"], "limits": {"tokens_per_day": 5}, "allowed_models": ["a"]},
    "/api/v1/session": {"key": "ffk_x"},
}


def broken_json(good: bytes, chance: random.Random) -> bytes:
    """``good`` with bytes lost, doubled, flipped or added."""
    data = bytearray(good)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data)) if data else 0
        match chance.randrange(5):
            case 0:
                del data[at : at + chance.randrange(1, 20)]
            case 1:
                data[at:at] = chance.choice([b"{", b"[", b'"', b"\\u", b"\xff", b"\x00", b"NaN", b"1e999", b"[" * 300])
            case 2 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 3:
                data[at:at] = data[at : at + 50]
            case _:
                data = data[:at]
    return bytes(data)


def send_bodies(target: Target, findings: Findings, count: int, chance: random.Random) -> None:
    """Wrong and broken JSON to every route that takes a body."""
    for _ in range(count):
        path, body = chance.choice(list(BODIES.items()))
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {chance.choice(target.keys)}"}
        if chance.random() < 0.5:
            with suppress(ValueError):
                raw = json.dumps(bent(body, chance)).encode("utf-8", "surrogatepass")
        else:
            raw = broken_json(json.dumps(body).encode(), chance)
        if chance.random() < 0.05:
            headers["Content-Type"] = chance.choice(["text/plain", "", "application/json; charset=utf-16", "x" * 300])
        status, answer = target.send("POST", path, raw, headers)
        findings.answered("bodies", status, answer, f"{path} {raw[:800]!r}")


def send_names(target: Target, findings: Findings, count: int, chance: random.Random) -> None:
    """Traversals and injections wherever a name, a path, a query or a header can stand."""
    canary = str(target.canary)
    hostile = [text.format(canary=canary) if "{canary}" in text else text for text in (*TRAVERSALS, *INJECTIONS)]
    places = (
        "/v1/models/{}", "/api/v1/models/{}/load", "/api/v1/models/{}/unload", "/api/v1/models/{}/download",
        "/api/v1/models/{}/download/cancel", "/static/{}", "/static/../{}", "/{}", "/api/v1/keys/{}",
        "/api/v1/keys/{}/revoke", "/api/v1/keys/{}/rotate", "/api/v1/health?level={}", "/api/v1/models/catalog?refresh={}",
        "/api/v1/usage?key={}", "/api/v1/usage?from={}", "/api/v1/audit?since={}", "/docs/{}",
    )  # fmt: skip
    for _ in range(count):
        text = chance.choice(hostile)
        key = {"Authorization": f"Bearer {chance.choice(target.keys)}"}
        if chance.random() < 0.6:
            place = chance.choice(places)
            shown = quote(text.encode("utf-8", "surrogatepass"), safe="%/." if chance.random() < 0.5 else "")
            method = (
                "GET" if "?" in place or place.count("/") < 4 or "static" in place else chance.choice(["GET", "POST"])
            )
            path = place.format(shown)
            status, answer = target.send(
                method, path, b"{}" if method == "POST" else None, key | {"Content-Type": "application/json"}
            )
            findings.answered("names in paths", status, answer, f"{method} {path}")
        elif chance.random() < 0.5:
            path = chance.choice(list(BODIES))
            body = dict(BODIES[path])
            name = chance.choice([name for name, value in body.items() if isinstance(value, str)] or ["model"])
            raw = json.dumps(body | {name: text}).encode("utf-8", "surrogatepass")
            status, answer = target.send("POST", path, raw, key | {"Content-Type": "application/json"})
            findings.answered("names in bodies", status, answer, f"{path} {name}={text!r}")
        else:
            name = chance.choice(
                ["X-Request-Id", "Authorization", "x-api-key", "Cookie", "Origin", "Host", "Via", "X-Csrf-Token"]
            )
            value = re.sub(r"[\r\n\x00]", " ", text)[:3000]
            if name == "Cookie":
                value = f"foundry_session={value}"
            status, answer = target.send("GET", "/v1/models", None, key | {name: value})
            findings.answered("names in headers", status, answer, f"{name}: {value}")


def send_raw(target: Target, findings: Findings, count: int, chance: random.Random) -> None:
    """Bytes that are hardly HTTP."""
    parts = urlsplit(target.url)
    good = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {target.keys[0]}\r\n"
        'Content-Type: application/json\r\nContent-Length: 20\r\n\r\n{"model":"m","a":[]}'
    ).encode()
    for _ in range(count):
        kind = chance.random()
        if kind < 0.5:
            data = broken_json(good, chance)
        elif kind < 0.75:
            data = chance.randbytes(chance.randrange(1, 2000))
        else:
            length = chance.choice(["-1", "1e3", "99999999999999999999", "5, 6", "0x10", " ", "+5"])
            data = good.replace(b"Content-Length: 20", f"Content-Length: {length}".encode())
            if chance.random() < 0.5:
                data = data.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n", 1)
        try:
            with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=5) as sock:
                sock.sendall(data)
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
                sock.settimeout(3)
                answer = b""
                with suppress(TimeoutError):
                    while part := sock.recv(65536):
                        answer += part
        except ConnectionError:
            answer = b""
        match = re.match(rb"HTTP/1\.\d (\d{3})", answer)
        findings.answered("raw bytes", int(match[1]) if match else 0, answer, repr(data[:150]))


def run_schemathesis(target: Target, findings: Findings, seed: int, seconds: int) -> None:
    """Requests made from the OpenAPI document, until ``seconds`` have passed."""
    if importlib.util.find_spec("schemathesis") is None:
        sys.stdout.write("schemathesis is not installed (pip install schemathesis); its share is left out\n")
        return
    report = target.home.parent / "schemathesis.ndjson"
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{target.url}/openapi.json", "--header",
        f"Authorization: Bearer {target.keys[0]}", "--checks", "not_a_server_error,content_type_conformance,status_code_conformance",
        "--max-time", str(seconds), "--seed", str(seed), "--phases", "examples,coverage,fuzzing", "--generation-database", "none",
        "--exclude-path-regex", "session|rotate|revoke", "--no-color", "--continue-on-failure",
        "--report", "ndjson", "--report-ndjson-path", str(report),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    count = re.search(r"(\d+) generated", done.stdout)
    findings.sent["schemathesis"] += int(count[1]) if count else 0
    if done.returncode != 0:
        findings.wrong.append("schemathesis: " + done.stdout[-3000:] + done.stderr[-1000:])


def check_files(trace: Path | None, target: Target, allowed: list[Path], findings: Findings) -> int:
    """How many files were opened to write; those outside of ``allowed``, and any sight of the canary, are findings."""
    if trace is None:
        return 0
    writes = 0
    for file in trace.parent.glob(trace.name + "*"):
        for line in file.read_text("utf-8", "replace").splitlines():
            match = OPENED.search(line)
            if match is None or " = -1 E" in line:
                continue
            names = QUOTED.findall(match[1])
            if any(str(target.canary) in name for name in names):
                findings.wrong.append(f"files: the canary was opened: {line[:200]}")
            if not re.search(r"O_WRONLY|O_RDWR|O_CREAT|unlink|rename|mkdir|creat\(", line):
                continue
            writes += 1
            for name in names:
                if name.startswith("/") and not any(name.startswith(str(root)) for root in allowed):
                    findings.wrong.append(f"files: written outside of the home: {line[:200]}")
    return writes


def check_secrets(target: Target, secrets_used: list[str], findings: Findings) -> int:
    """How many log files there are; any secret in one is a finding."""
    logs = [file for file in target.home.rglob("*") if file.is_file() and file.suffix in {".log", ".jsonl", ".1"}]
    for file in logs:
        text = file.read_bytes()
        findings.wrong += [f"logs: {file.name} holds a secret" for secret in secrets_used if secret.encode() in text]
    return len(logs)


@contextmanager
def target_gateway(root: Path) -> Iterator[tuple[Target, list[str], ProductProcess]]:
    """A gateway with keys, and what must stay secret."""
    home, outside = root / "ours", root / "outside"
    outside.mkdir(parents=True)
    canary = outside / "canary.txt"
    canary.write_text(CANARY)
    admin = "".join(secrets.choice(string.ascii_letters) for _ in range(40))
    password = "engine-password-" + secrets.token_hex(8)
    env = {
        "FOUNDRY_ADMIN_KEY": admin,
        "FASTAPI_FOUNDRY__SECURITY__REQUIRE_KEY": "always",
        "FASTAPI_FOUNDRY__LOGGING__LEVEL": "DEBUG",
        "FOUNDRY_DEFAULT_MODEL": MODEL,
    }
    with ExitStack() as stack:
        double = stack.enter_context(
            running_double("gen2", root / "theirs", models=[f"{MODEL},alias=phi-x,state=loaded"], chunk_delay_s=0)
        )
        engines = [{"name": "other", "url": double.url, "api_key": password, "models": ["another:1"]}]
        env |= {"FOUNDRY_BASE_URL": double.url, "FASTAPI_FOUNDRY__ENGINES": json.dumps(engines)}
        gateway = stack.enter_context(gateway_process(home, arguments=["--port", "0"], env=env))
        boss = {"Authorization": f"Bearer {admin}"}
        eventually_sync(lambda: ask(gateway.url, "/v1/models", headers=boss).status == 200)
        keys = [admin]
        for scopes in (["admin"], ["chat", "embeddings"], ["models:manage"]):
            made = ask(gateway.url, "/api/v1/keys", {"name": scopes[0], "scopes": scopes}, headers=boss)
            keys.append(made.json["key"])
        yield Target(gateway.url, home, keys, canary), [*keys, password], gateway


def attack(inputs: int, seed: int, root: Path, *, with_schemathesis: bool) -> Findings:
    """Send that many inputs; what came of it."""
    findings, chance = Findings(), random.Random(seed)
    with target_gateway(root) as (target, used, gateway):
        trace = root / "trace" if shutil.which("strace") else None
        tracer = None
        if trace is not None:
            calls = "trace=open,openat,creat,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat"
            tracer = subprocess.Popen(["strace", "-ff", "-q", "-e", calls, "-o", str(trace), "-p", str(gateway.pid)])
        try:
            share = inputs // 10
            send_bodies(target, findings, share * 4, chance)
            send_names(target, findings, share * 4, chance)
            send_raw(target, findings, inputs - 8 * share, chance)
            if with_schemathesis:
                run_schemathesis(target, findings, seed, seconds=120)
            still = ask(target.url, "/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]},
                        headers={"Authorization": f"Bearer {target.keys[0]}"})  # fmt: skip
            if still.status != 200:
                findings.wrong.append(f"afterwards it answers {still.status}")
        finally:
            if tracer is not None:
                tracer.terminate()
                tracer.wait(10)
        gateway.stop()
        writes = check_files(trace, target, [target.home, Path("/dev"), Path("/proc")], findings)
        logs = check_secrets(target, used, findings)
        sys.stdout.write(f"log files {logs}; files opened to write {writes}{'' if trace else ' (no strace here)'}\n")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-schemathesis", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        findings = attack(options.inputs, options.seed, Path(root), with_schemathesis=not options.no_schemathesis)
    for kind, count in findings.sent.items():
        sys.stdout.write(f"{kind:<18} {count:>6}\n")
    sys.stdout.write(f"statuses: {dict(sorted(findings.statuses.items()))}\n")
    for wrong in findings.wrong[:40]:
        sys.stdout.write(f"WRONG {wrong}\n")
    sys.stdout.write(f"{len(findings.wrong)} findings\n")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
