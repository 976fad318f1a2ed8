"""What another gateway tells of a download."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fastapi_foundry.engines.catalog import DownloadProgress
from fastapi_foundry.engines.drivers.gateway import download_progress
from fastapi_foundry.errors import CatalogUnavailableError, EngineFailedError


async def told(*lines: bytes) -> AsyncIterator[bytes]:
    for line in lines:
        yield line


async def test_progress_is_read_and_signs_of_life_are_passed_over() -> None:
    lines = (
        b": keep-alive",
        b"",
        b'data: {"event":"progress","percent":12.5}',
        b"",
        b'data: {"event":"done","model":"m:1"}',
    )
    seen = [step async for step in download_progress(told(*lines))]
    assert seen == [DownloadProgress(12.5), DownloadProgress(100.0, "m:1")]


async def test_a_failure_keeps_its_reason() -> None:
    error = b'data: {"error":{"error":"Catalogue unavailable","detail":"No network.","status_code":503,"code":"catalog_unavailable"}}'
    with pytest.raises(CatalogUnavailableError, match="No network"):
        [step async for step in download_progress(told(error))]


async def test_an_end_without_a_result_is_a_failure() -> None:
    with pytest.raises(EngineFailedError, match="without a result"):
        [step async for step in download_progress(told(b'data: {"event":"progress","percent":1}'))]
