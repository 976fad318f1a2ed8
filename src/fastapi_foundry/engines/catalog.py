"""What engines offer for download, and how far a download has come: values that every layer above may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Catalog", "CatalogModel", "CatalogSource", "DownloadProgress"]


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """One model of a catalogue.

    Attributes:
        id: Full id, ``name:version``.
        state: ``available`` (not on this machine), ``downloading``, or the state of the model that is here.
        engine: Whose catalogue it is.
        percent: How much of a download has arrived, 0 to 100; None when there is none.
        extra: Every further field of the engine's own entry (alias, task, size_mb, device, license, ...).
    """

    id: str
    state: str
    engine: str = ""
    percent: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CatalogSource:
    """Where part of a catalogue comes from.

    Attributes:
        engine: Its name in the configuration.
        status: ``fresh``, ``stale``, ``loading``, ``unavailable``, ``offline``, or ``none`` for an engine without one.
        fetched_at: When it was fetched, as ``YYYY-MM-DDTHH:MM:SSZ``; None where that is not known.
        reason: In words, why it is not fresh; empty when it is.
    """

    engine: str
    status: str
    fetched_at: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Catalog:
    """What can be downloaded, by whom."""

    sources: tuple[CatalogSource, ...] = ()
    models: tuple[CatalogModel, ...] = ()


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a download is.

    Attributes:
        percent: 0 to 100.
        model: The full id once the model is on the engine's machine; empty before.
    """

    percent: float
    model: str = ""
