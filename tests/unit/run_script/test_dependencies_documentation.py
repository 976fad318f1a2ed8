"""docs/dependencies.md, pyproject.toml and the lock files agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = {name: (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8") for name in ("runtime", "dev")}


def names(requirements: list[str]) -> list[str]:
    return sorted(re.match(r"[A-Za-z0-9_.-]+", line)[0].lower() for line in requirements)


def locked(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9_.-]+)==([^ ;\\]+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_every_runtime_dependency_is_justified_and_nothing_else():
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| (.+) \|$", PAGE, re.MULTILINE))
    assert sorted(rows) == names(PROJECT["project"]["dependencies"])
    assert all(len(reason) > 30 for reason in rows.values())


def test_the_locks_hold_what_the_project_asks_for():
    runtime, dev = locked(LOCKS["runtime"]), locked(LOCKS["dev"])
    build = names((ROOT / "requirements" / "build.in").read_text().split("hatchling.\n")[-1].splitlines()[-2:])
    assert set(names(PROJECT["project"]["dependencies"])) <= set(runtime)
    assert build == ["editables", "hatchling"]
    assert set(build) <= set(runtime)
    assert set(names(PROJECT["dependency-groups"]["dev"])) <= set(dev)
    assert runtime["foundry-local-sdk"] == {"2.2.1"}


def test_the_lock_for_tests_holds_the_one_for_run_time_in_the_same_versions():
    dev = locked(LOCKS["dev"])
    for name, versions in locked(LOCKS["runtime"]).items():
        assert dev[name] == versions


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_every_locked_package_has_hashes_and_no_address_is_named(name):
    blocks = re.split(r"^(?=[a-z0-9])", LOCKS[name], flags=re.MULTILINE)
    packages = [block for block in blocks if re.match(r"[a-z0-9]", block)]
    assert packages
    assert all("--hash=sha256:" in block for block in packages)
    assert "://" not in LOCKS[name]
    assert "--find-links" not in LOCKS[name]
    assert "index-url" not in LOCKS[name]


@pytest.mark.parametrize("forbidden", ["torch", "transformers", "optimum", "tensorflow", "azure-core"])
def test_no_second_inference_stack_is_locked(forbidden):
    assert forbidden not in locked(LOCKS["runtime"])
    assert forbidden not in locked(LOCKS["dev"])
