"""How each kind of engine is asked for its models, told to load them and to fetch new ones."""

from __future__ import annotations

from fastapi_foundry.engines.drivers.base import Driver
from fastapi_foundry.engines.drivers.foundry1 import FirstGenerationDriver
from fastapi_foundry.engines.drivers.foundry3 import ThirdGenerationDriver
from fastapi_foundry.engines.drivers.gateway import GatewayDriver
from fastapi_foundry.engines.drivers.ours import OurDriver
from fastapi_foundry.engines.drivers.plain import PlainDriver
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.transport import Transport

__all__ = ["Driver", "driver_of"]


def driver_of(transport: Transport) -> Driver:
    """The driver for what the supervisor has found; cheap, so it follows when another generation appears."""
    match transport.supervisor.kind:
        case EngineKind.GEN1:
            return FirstGenerationDriver(transport)
        case EngineKind.GEN3:
            return ThirdGenerationDriver(transport)
        case EngineKind.OURS:
            return OurDriver(transport)
        case EngineKind.GATEWAY:
            return GatewayDriver(transport)
        case _:
            return PlainDriver(transport)
