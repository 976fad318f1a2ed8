"""Fixtures that every test may ask for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ProductProcess, gateway_process, service_process


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes under test where a shell started the tests in the background, deaf to it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def foundry_home(tmp_path: Path) -> Path:
    """An empty FOUNDRY_HOME."""
    home = tmp_path / "foundry-home"
    home.mkdir()
    return home


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductProcess]:
    """One real service with the demo model, for tests that leave it as they found it."""
    with service_process(tmp_path_factory.mktemp("service-home")) as process:
        yield process


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductProcess]:
    """One real gateway (with its service and runner), for tests that leave it as they found it."""
    with gateway_process(tmp_path_factory.mktemp("gateway-home")) as process:
        yield process
