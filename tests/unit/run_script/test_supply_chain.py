"""The list of everything in the product, the licences, and the scan of our own code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / "tools" / "supply_chain"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The document's text, made by the command."""
    path = tmp_path_factory.mktemp("sbom") / "dist" / "sbom.cdx.json"
    command = [sys.executable, str(TOOLS / "sbom.py"), "--output", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sbom(written):
    return json.loads(written)


def test_the_sbom_is_valid_cyclonedx(written):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None


def test_a_second_run_writes_the_same_bytes(written, supply_chain):
    assert supply_chain("sbom").make_sbom() == written
    assert "serialNumber" not in written
    assert "timestamp" not in written


def test_the_sbom_holds_every_locked_package_with_its_hashes_and_its_licence(sbom, supply_chain):
    locks = supply_chain("locks")
    locked = locks.read_lock(ROOT / "requirements" / "runtime.txt")
    found = {c["purl"]: c for c in sbom["components"] if c.get("purl", "").startswith("pkg:pypi/")}
    assert sorted(found) == sorted(f"pkg:pypi/{entry.name}@{entry.version}" for entry in locked)
    for entry in locked:
        component = found[f"pkg:pypi/{entry.name}@{entry.version}"]
        (reference,) = component["externalReferences"]
        assert {one["content"] for one in reference["hashes"]} == set(entry.hashes)
        (licence,) = component["licenses"]
        assert licence.get("expression") or licence["license"]["id"]
    assert found["pkg:pypi/hatchling@" + versions(locked, "hatchling")]["scope"] == "excluded"
    assert found["pkg:pypi/starlette@" + versions(locked, "starlette")]["scope"] == "required"


def versions(locked, name: str) -> str:
    return next(entry.version for entry in locked if entry.name == name)


def test_the_sbom_says_who_needs_whom(sbom):
    needs = {row["ref"].partition("@")[0]: row.get("dependsOn", []) for row in sbom["dependencies"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = {re.match(r"[A-Za-z0-9_.-]+", line)[0] for line in project["dependencies"]}
    of_project = {ref.partition("@")[0].removeprefix("pkg:pypi/") for ref in needs["pkg:pypi/fastapi-foundry"]}
    assert direct <= of_project
    assert any(ref.startswith("pkg:pypi/starlette@") for ref in needs["pkg:pypi/fastapi"])


def test_vendored_code_and_models_are_in_the_sbom_with_their_files(sbom):
    bundled = {c["name"]: c for c in sbom["components"] if c["bom-ref"].startswith("bundled/")}
    assert bundled["swagger-ui-dist"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert bundled["foundry-demo"]["type"] == "machine-learning-model"
    parts = {part["name"]: part for part in bundled["swagger-ui-dist"]["components"]}
    assert {"dompurify", "react"} <= parts.keys()
    sums = (ROOT / "src/fastapi_foundry/web/static/vendor/swagger-ui/VERSION.md").read_text(encoding="utf-8")
    (bundle,) = [part for name, part in parts.items() if name.endswith("swagger-ui-bundle.js")]
    assert f"{bundle['hashes'][0]['content']}  swagger-ui-bundle.js" in sums


def test_everything_that_is_bundled_is_listed(supply_chain):
    listed = {entry["path"]: entry for entry in supply_chain("sbom").read_bundled()}
    package = ROOT / "src" / "fastapi_foundry"
    vendored = {path.relative_to(ROOT).as_posix() for path in (package / "web/static/vendor").iterdir()}
    models = {path.parent.relative_to(ROOT).as_posix() for path in package.rglob("*.onnx")}
    assert listed.keys() == vendored | models
    for path, entry in listed.items():
        version = ROOT / path / "VERSION.md"
        if version.exists():
            assert entry["version"] in version.read_text(encoding="utf-8")


def test_every_licence_is_on_the_list_or_explained(supply_chain):
    licences, locks = supply_chain("licences"), supply_chain("locks")
    page = licences.read_exceptions()
    explained = {entry["package"]: entry for entry in page["licence"]}
    stated = page["stated_licences"]
    seen: set[str] = set()
    for lock in ("runtime", "dev"):
        for entry in locks.read_lock(ROOT / "requirements" / f"{lock}.txt"):
            licence = licences.licence_of(entry.name, stated)
            seen.add(entry.name)
            if entry.name in explained:
                assert lock == "dev", f"{entry.name} runs with the product"
                assert licence == explained[entry.name]["licence"]
            else:
                assert licences.is_allowed(licence), f"{entry.name}: {licence}"
    assert explained.keys() <= seen
    assert stated.keys() <= seen


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("AGPL-3.0-or-later", False),
        ("LGPL-3.0-only", False),
    ],
)
def test_a_licence_is_judged_by_all_that_it_asks_for(supply_chain, expression, allowed):
    assert supply_chain("licences").is_allowed(expression) is allowed


def test_a_package_that_does_not_say_its_licence_is_an_error(supply_chain):
    licences = supply_chain("licences")
    for name in ("onnxruntime-genai-core", "no-such-package"):
        with pytest.raises(licences.LicenceError, match=f"{name} .*exceptions.toml"):
            licences.licence_of(name, {})
    assert licences.licence_of("no-such-package", {"no-such-package": "MIT"}) == "MIT"


def test_every_exception_has_its_reason(supply_chain):
    page = supply_chain("licences").read_exceptions()
    for kind in ("finding", "licence", "vulnerability"):
        for entry in page.get(kind, []):
            assert len(entry["reason"]) > 20, entry


SHELL = "import os\nos.system(input())"
EXPLAINED = {
    "reason_behind": f"{SHELL}  # noqa: S605 - typed by a person\n",
    "reason_above": SHELL.replace("\n", "\n# typed by a person\n") + "  # noqa: S605\n",
    "whole_file": f"# ruff: noqa: S1, S605 - a person\n{SHELL}\n",
    "on_the_page": f"{SHELL}\n",
}
UNEXPLAINED = {
    "bare": f"{SHELL}\n",
    "no_reason": f"{SHELL}  # noqa: S605\n",
    "other_rule": f"{SHELL}  # noqa: S602 - other\n",
    "own_comment": f"{SHELL}  # nosec\n",
    "whole_file_without_reason": f"# ruff: noqa: S605\n{SHELL}\n",
}
ENTRY = '[[finding]]\ntest = "{}"\npaths = ["src/on_*"]\nreason = "r"\n'


def scanned(supply_chain, root: Path, files: dict[str, str], exceptions: str) -> int:
    for directory in ("src", "tools/supply_chain"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for name, code in files.items():
        (root / "src" / f"{name}.py").write_text(code)
    (root / "run.py").write_text("")
    (root / "tools/supply_chain/exceptions.toml").write_text(exceptions)
    return supply_chain("scan").main(root)


def test_a_weakness_is_mended_or_explained(supply_chain, tmp_path, capsys):
    assert scanned(supply_chain, tmp_path, EXPLAINED, ENTRY.format("B605")) == 0
    assert capsys.readouterr().out == "4 findings, all explained.\n"
    assert scanned(supply_chain, tmp_path, UNEXPLAINED, ENTRY.format("B605")) == 1
    said = capsys.readouterr().out
    assert sorted(re.findall(r"src/(\w+)\.py:\d: B605 ", said)) == sorted(UNEXPLAINED)


def test_an_exception_that_matches_nothing_and_a_file_that_cannot_be_read_are_failures(supply_chain, tmp_path, capsys):
    assert scanned(supply_chain, tmp_path, {"broken": "y = (\n"}, ENTRY.format("B602")) == 1
    said = capsys.readouterr().out
    assert "exceptions.toml: B602 in src/on_* matches nothing any more" in said
    assert "src/broken.py: not read" in said
