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


def test_the_licence_on_the_page_is_the_one_that_the_package_states(supply_chain):
    licences = supply_chain("licences")
    stated = licences.read_exceptions()["stated_licences"]
    for name, licence in re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| ([^|]+) \|", PAGE, re.MULTILINE):
        written = licence.replace(" or ", " OR ").replace(" and ", " AND ")
        assert licences.same(written, licences.licence_of(name, stated)), name


def test_every_optional_dependency_is_justified_too():
    for extra, requirements in PROJECT["project"]["optional-dependencies"].items():
        assert f"The extra `{extra}`" in PAGE
        for name in names(requirements):
            assert re.search(rf"\b{name}\b", PAGE), name


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_every_locked_package_has_hashes_and_no_address_is_named(supply_chain, name):
    # It takes no line but exact versions, hashes and who wants them: no option, no address, no path.
    entries = supply_chain("locks").read_lock(ROOT / "requirements" / f"{name}.txt")
    assert len(entries) > 50
    assert all(entry.hashes for entry in entries)
    assert LOCKS[name].count("sha256:") == sum(len(entry.hashes) for entry in entries)
    assert not re.findall(r"://|[\w-]+\.(?:org|com|net|io|dev)\b|[@\\][a-z]", LOCKS[name])


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://mirror.example.org/simple",
        "--extra-index-url file:///somewhere",
        "--find-links /somewhere",
        "name @ https://mirror.example.org/name.whl",
        "-e ./somewhere",
        "name>=1",
        "name==1 --hash=md5:0",
        "    --hash=sha256:0",
    ],
)
def test_a_line_that_belongs_into_no_lock_is_found(supply_chain, tmp_path, line):
    path = tmp_path / "lock.txt"
    path.write_text(f"name==1 \\\n    --hash=sha256:{'0' * 64}\n    # via other\n{line}\n")
    with pytest.raises(ValueError, match="line 4"):
        supply_chain("locks").read_lock(path)


@pytest.mark.parametrize("forbidden", ["torch", "transformers", "optimum", "tensorflow", "azure-core"])
def test_no_second_inference_stack_is_locked(forbidden):
    assert forbidden not in locked(LOCKS["runtime"])
    assert forbidden not in locked(LOCKS["dev"])
