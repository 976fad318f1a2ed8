"""Which licence a package has, and whether we accept it."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from license_expression import ExpressionError, LicenseExpression, get_spdx_licensing

__all__ = ["ALLOWED", "LicenceError", "is_allowed", "licence_of", "read_exceptions", "same"]

ALLOWED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "MPL-2.0",
        "PSF-2.0",
        "Python-2.0",
        "Unlicense",
        "Zlib",
    }
)
"""SPDX names. All of them allow use, change and distribution of what is built on them, under any licence."""

EXCEPTIONS: Final = Path(__file__).with_name("exceptions.toml")

# What packages write instead of the SPDX name; only what can mean one licence and no other.
_SPELLINGS: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_SPDX: Final = get_spdx_licensing()


class LicenceError(Exception):
    """It cannot be told which licence a package has; the message says what to do."""


def read_exceptions(path: Path = EXCEPTIONS) -> dict[str, Any]:
    """The page of exceptions; see there."""
    return tomllib.loads(path.read_text("utf-8"))


def licence_of(name: str, stated: dict[str, str]) -> str:
    """The SPDX expression of the package ``name``: as ``stated`` by us, or as it says itself where it is installed.

    Raises:
        LicenceError: It is not installed, or says nothing that means one licence.
    """
    if name in stated:
        return stated[name]
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        raise LicenceError(f"{name} is not installed; state its licence in {EXCEPTIONS.name}") from None
    classifiers = [text.rpartition(" :: ")[2] for text in about.get_all("Classifier") or () if text[:7] == "License"]
    lines = (about.get("License") or "").strip().splitlines()
    sayings = (about.get("License-Expression"), lines[0] if lines else None, *classifiers[: len(classifiers) == 1])
    for saying in sayings:
        expression = _SPELLINGS.get(saying or "", saying)
        if expression and _is_spdx(expression):
            return expression
    raise LicenceError(f"{name} does not say clearly which licence it has; state it in {EXCEPTIONS.name}")


def is_allowed(expression: str) -> bool:
    """Whether we may use what is under ``expression``: all of what it joins by AND, one of what it joins by OR."""
    return _allows(_SPDX.parse(expression, validate=True))


def same(one: str, other: str) -> bool:
    """Whether two expressions mean the same, whatever their order."""
    return bool(_SPDX.is_equivalent(_SPDX.parse(one), _SPDX.parse(other)))


def _is_spdx(text: str) -> bool:
    try:
        _SPDX.parse(text, validate=True)
    except ExpressionError:
        return False
    return True


def _allows(node: LicenseExpression) -> bool:
    if isinstance(node, _SPDX.OR):
        return any(_allows(part) for part in node.args)
    if isinstance(node, _SPDX.AND):
        return all(_allows(part) for part in node.args)
    return str(node) in ALLOWED
