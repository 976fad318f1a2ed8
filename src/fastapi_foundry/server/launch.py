"""The start and the end of the gateway's process, in an order that wastes no time.

The port is bound first. Then, before the application is imported (half a second of one core), Foundry is looked for and,
if need be, started: it gets ready on another core meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from fastapi_foundry import __version__
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.engines.openai_http import require_reachable
from fastapi_foundry.engines.process import bind_first_free
from fastapi_foundry.observability.logging import configure_logging, get_logger
from fastapi_foundry.server.tls import CertificateFiles
from fastapi_foundry.settings import Settings

if TYPE_CHECKING:
    from fastapi_foundry.services.keys import NewKey

__all__ = ["serve"]

logger = get_logger(__name__)

_SPARE_FILES: Final = 1024  # log files, pipes to the service, sockets of refused connections
# A look around takes 20 ms; an installed CLI may take seconds to answer, and is waited for beside everything else.
_FIRST_LOOK_S: Final = 0.15


def serve(
    settings: Settings,
    ready: Callable[[str], None],
    *,
    config_path: Path | None = None,
    warn: Callable[[str], None] | None = None,
    show_key: Callable[[NewKey], None] | None = None,
) -> None:
    """Run the gateway in this thread until SIGINT or SIGTERM; blocks.

    Args:
        settings: Everything that can be set.
        ready: Called with the base URL, such as ``http://127.0.0.1:9696``, once connections are accepted.
        config_path: The configuration file in use, for a service that has to be started with the same.
        show_key: Shows the first admin key, where one has to be made; None where nobody would see it.
        warn: Told what whoever starts the gateway should know, before ``ready``; the log has it too.

    Raises:
        PortUnavailableError: When no port that the settings allow is free.
        ConfigurationError: When an engine that is required cannot be reached, the certificate is not usable, or a key
            is needed that nobody has and that cannot be shown.
        StorageError: When the database cannot be used.
    """
    certificate = CertificateFiles(settings.tls) if settings.tls.enabled else None
    with asyncio.Runner(loop_factory=_loop_factory()) as loop:
        if settings.engines:
            loop.run(require_reachable(settings.engines, settings.foundry_ai))
        with _bind(settings) as sock, configure_logging(settings.logging, home=settings.home, process="gateway"):
            port = sock.getsockname()[1]
            url = _url(settings.fastapi_server.host, port, secure=certificate is not None)
            _allow_many_files(4 * settings.http_limits.max_connections + _SPARE_FILES)
            for warning in certificate.current.warnings if certificate is not None else ():
                logger.warning("certificate is questionable", error=warning)
                if warn is not None:
                    warn(warning)
            logger.info("gateway starting", version=__version__, port=port, url=url)
            foundry = FoundryLocalEngine(settings, config_path=config_path)
            try:
                loop.run(_begin(foundry))
                with _models_unbuilt():
                    from fastapi_foundry.server.running import run  # noqa: PLC0415 - when Foundry is on its way

                loop.run(
                    run(
                        settings,
                        sock,
                        foundry=foundry,
                        ready=lambda: _ready(ready, url),
                        certificate=certificate,
                        show_key=show_key,
                    )
                )
            finally:
                loop.run(foundry.aclose())
            logger.info("gateway stopped", version=__version__, port=port)


async def _begin(foundry: FoundryLocalEngine) -> None:
    await foundry.start()
    await foundry.first_look(_FIRST_LOOK_S)


@contextmanager
def _models_unbuilt() -> Iterator[None]:
    """Pydantic models that are defined in the block are built when they are first used; most are for ``/openapi.json``.

    That is a sixth of the start: forty models are FastAPI's own, and every documented answer is one.
    """
    BaseModel.model_config["defer_build"] = True
    try:
        yield
    finally:
        del BaseModel.model_config["defer_build"]


def _ready(ready: Callable[[str], None], url: str) -> None:
    # What has been imported stays, and need not be looked at again and again: 60 ms for each full collection.
    gc.freeze()
    gc.enable()
    ready(url)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - does not exist on Windows

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _bind(settings: Settings) -> socket.socket:
    server, ports = settings.fastapi_server, settings.port_management
    if ports.conflict_resolution == "fail" or not ports.auto_find_free_port:
        return bind_first_free(server.host, server.port, 1, 0)
    return bind_first_free(server.host, server.port, ports.port_range_start, ports.port_range_end)


def _allow_many_files(wanted: int) -> None:
    """Use as many file descriptors as are wanted and the system lets us; every open stream takes two."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - does not exist on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _url(host: str, port: int, *, secure: bool) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared with, not bound to
        host = "127.0.0.1"
    return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port}"
