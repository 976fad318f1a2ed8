"""Clients that leave, in every phase of a request: the engine stops, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

from tests.faults.disconnects import PHASES, disconnects, scene_within

# A prompt that takes the engine a fifth of a second.
WORDS = 120


async def test_who_leaves_in_any_phase_leaves_nothing_behind(tmp_path: Path) -> None:
    async with scene_within(tmp_path, words=WORDS) as scene:
        reports = [report async for report in disconnects(scene, count=2, at_once=4)]
    assert [problem for report in reports for problem in report.problems] == []
    assert [(report.phase, report.kind, report.clients) for report in reports] == [
        (phase, kind, 2) for phase in PHASES for kind in ("stream", "whole")
    ]
    assert scene.inside is not None
    assert scene.inside.services.express.taken > 0
