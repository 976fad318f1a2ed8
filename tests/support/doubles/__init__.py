"""Processes that behave like the generations of Microsoft's Foundry Local, or like OpenAI; see ``running_double``."""

from __future__ import annotations

from tests.support.doubles.faults import FAULTS
from tests.support.doubles.foundry_cli import write_foundry_cli
from tests.support.doubles.running import RunningDouble, running_double

__all__ = ["FAULTS", "RunningDouble", "running_double", "write_foundry_cli"]
