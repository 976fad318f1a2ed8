"""Write the list of everything in the product: ``python3 run.py sbom``.

A CycloneDX document with the locked packages (hashes of their files, licences, who needs whom), the code and the models
that lie in the package. Two runs on the same checkout write the same bytes: it holds no time and no random serial number.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tomllib
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from licences import LicenceError, licence_of, read_exceptions
from locks import ROOT, Locked, read_lock
from packageurl import PackageURL

__all__ = ["main", "make_sbom", "read_bundled"]

BUNDLED: Final = Path(__file__).with_name("bundled.toml")
_PROJECT: Final = "fastapi-foundry"
_BUILD_INPUT: Final = "-r requirements/build.in"
_LICENCES: Final = LicenseFactory()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document; the result is the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "sbom.cdx.json", help="file to write")
    output: Path = parser.parse_args(arguments).output
    try:
        text = make_sbom()
    except LicenceError as error:
        print(f"The SBOM was not made: {error}", file=sys.stderr)
        return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8", newline="\n")
    print(f"{output}: {len(text)} characters")
    return 0


def read_bundled() -> list[dict[str, Any]]:
    """What lies inside the package and is not made of our own code."""
    found: list[dict[str, Any]] = tomllib.loads(BUNDLED.read_text("utf-8"))["bundled"]
    return found


def make_sbom(root: Path = ROOT) -> str:
    """The document as JSON.

    Raises:
        LicenceError: The licence of a package is not clear.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    locked = read_lock(root / "requirements" / "runtime.txt")
    stated = read_exceptions().get("stated_licences", {})
    bom = Bom()
    # The library's own way to leave both out.
    bom.serial_number = None  # type: ignore[assignment]
    bom.metadata.timestamp = None  # type: ignore[assignment]
    bom.metadata.tools.components.add(
        Component(name="cyclonedx-python-lib", version=metadata.version("cyclonedx-python-lib"))
    )
    itself = _component(_PROJECT, project["version"], project["license"], ComponentType.APPLICATION)
    bom.metadata.component = itself
    at_run_time = _needed_by_project(locked)
    packages = [(entry, _package(entry, stated, at_run_time)) for entry in locked]
    bundled = [_bundled(entry, root) for entry in read_bundled()]
    bom.components.update([component for _, component in packages], bundled)
    for name, component in [(_PROJECT, itself), *((entry.name, component) for entry, component in packages)]:
        needed = [other for entry, other in packages if name in _names_of(entry.wanted_by)]
        bom.register_dependency(component, [*needed, *(bundled if component is itself else ())])
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _names_of(wanted_by: Iterable[str]) -> set[str]:
    """The packages among those that a lock names: ``fastapi-foundry (pyproject.toml)`` is the project."""
    return {text.partition(" ")[0] for text in wanted_by if not text.startswith("-")}


def _needed_by_project(locked: Sequence[Locked]) -> set[str]:
    """Names of what is loaded at run time, directly or not; the rest installs the project."""
    found, more = {_PROJECT}, True
    while more:
        new = {entry.name for entry in locked if not found.isdisjoint(_names_of(entry.wanted_by))} - found
        found, more = found | new, bool(new)
    return found


def _package(entry: Locked, stated: dict[str, str], at_run_time: set[str]) -> Component:
    component = _component(entry.name, entry.version, licence_of(entry.name, stated), ComponentType.LIBRARY)
    component.scope = ComponentScope.REQUIRED if entry.name in at_run_time else ComponentScope.EXCLUDED
    component.external_references.add(
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(str(component.purl)),
            comment="the files that the lock allows, one for each system",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=value) for value in entry.hashes],
        )
    )
    if entry.marker:
        component.properties.add(Property(name="fastapi-foundry:marker", value=entry.marker))
    return component


def _component(name: str, version: str, licence: str, kind: ComponentType) -> Component:
    purl = PackageURL("pypi", name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=kind,
        purl=purl,
        bom_ref=str(purl),
        licenses=[_LICENCES.make_from_string(licence)],
    )


def _bundled(entry: dict[str, Any], root: Path) -> Component:
    """What lies in a directory, with its files and what is built into them."""
    reference = f"bundled/{entry['name']}@{entry['version']}"
    parts = [
        Component(
            name=part["name"],
            version=part.get("version"),
            bom_ref=f"{reference}/{part['name']}",
            licenses=[_LICENCES.make_from_string(part["licence"])],
        )
        for part in entry.get("contains", ())
    ]
    directory = root / entry["path"]
    files = [
        Component(
            name=path.relative_to(root).as_posix(),
            type=ComponentType.FILE,
            bom_ref=path.relative_to(root).as_posix(),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(path.read_bytes()).hexdigest())],
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return Component(
        name=entry["name"],
        version=entry["version"],
        type=ComponentType(entry["type"]),
        description=entry["description"],
        purl=PackageURL.from_string(entry["purl"]) if "purl" in entry else None,
        bom_ref=reference,
        scope=ComponentScope.REQUIRED,
        licenses=[_LICENCES.make_from_string(entry["licence"])],
        components=[*parts, *files],
    )


if __name__ == "__main__":
    sys.exit(main())
