"""A small project that run.py can set up in seconds: the real run.py, nothing to install, a CLI that reports."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# A build backend in 20 lines, so that nothing has to be fetched.
BACKEND = """
import base64, hashlib, os, time, zipfile
ROOT = os.path.dirname(os.path.abspath(__file__))
def build_editable(directory, config_settings=None, metadata_directory=None):
    while os.path.exists(os.path.join(ROOT, "wait")):
        open(os.path.join(ROOT, "waiting"), "w").close()
        time.sleep(0.05)
    info = "fastapi_foundry-0.0.dist-info"
    files = {
        "stub.pth": os.path.join(ROOT, "src") + "\\n",
        info + "/METADATA": "Metadata-Version: 2.1\\nName: fastapi-foundry\\nVersion: 0.0\\n",
        info + "/WHEEL": "Wheel-Version: 1.0\\nGenerator: stub\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    name = "fastapi_foundry-0.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        rows = []
        for path, text in files.items():
            wheel.writestr(path, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append("%s,sha256=%s,%d" % (path, digest, len(text)))
        wheel.writestr(info + "/RECORD", "\\n".join(rows + [info + "/RECORD,,"]))
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "stub_backend"
backend-path = ["."]
[project]
name = "fastapi-foundry"
version = "0.0"
"""
CLI = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "config": os.environ.get("FASTAPI_FOUNDRY_CONFIG"),
    "prefix": sys.prefix, "path": sys.path}))
sys.exit(7 if "fail" in sys.argv else 0)
"""


class Project:
    """A checkout at ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._started: list[subprocess.Popen[str]] = []
        shutil.copytree(ROOT / "tools" / "run", root / "tools" / "run", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "run.py", root / "run.py")
        (root / "requirements").mkdir()
        for name in ("runtime", "dev"):
            (root / "requirements" / f"{name}.txt").write_text("# nothing\n")
        (root / "pyproject.toml").write_text(PYPROJECT)
        (root / "stub_backend.py").write_text(BACKEND)
        package = root / "src" / "fastapi_foundry"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(CLI)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.root / "run.py"), *arguments]

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        dropped = ("FASTAPI_FOUNDRY", "PIP_", "COVERAGE")
        env = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        return env | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull} | dict(extra)

    def run(self, *arguments: str, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=cwd,
            env=self.environment(extra),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def start(self, *arguments: str, **extra: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(*arguments),
            env=self.environment(extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end_started(self) -> None:
        """End what a failed test left behind: it would keep the lock of the set-up from the next test."""
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._started.clear()
        for name in ("wait", "waiting"):
            (self.root / name).unlink(missing_ok=True)


def reported(result: subprocess.CompletedProcess[str]) -> dict:
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A checkout on which nothing was set up."""
    made = Project(tmp_path / "a project")
    yield made
    made.end_started()


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, subprocess.CompletedProcess[str]]:
    """A checkout and its first run, without arguments; making an environment takes seconds, so it is shared."""
    made = Project(tmp_path_factory.mktemp("ready") / "a project")
    return made, made.run(cwd=made.root.parent)


@pytest.fixture
def ready(first_run) -> Iterator[Project]:
    """A checkout with an environment that works, whatever an earlier test did to it."""
    made, first = first_run
    assert first.returncode == 0, first.stderr
    (made.root / "requirements" / "runtime.txt").write_text("# nothing\n")
    assert made.run("x").returncode == 0
    yield made
    made.end_started()


@pytest.fixture
def report() -> Callable[[subprocess.CompletedProcess[str]], dict]:
    """What the stub CLI says about how it was started."""
    return reported


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of tools/run, as run.py does."""
    names = ("environment", "installer", "launcher", "locking", "system_tools")
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "run"))
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def supply_chain(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of tools/supply_chain, as its scripts do."""
    directory = ROOT / "tools" / "supply_chain"
    monkeypatch.syspath_prepend(str(directory))
    yield importlib.import_module
    for path in directory.glob("*.py"):
        sys.modules.pop(path.stem, None)
