"""Some hundred of the hostile inputs of ``tests.faults.hostile_inputs``; the command sends thousands."""

from __future__ import annotations

from pathlib import Path

from tests.faults.hostile_inputs import attack


def test_hostile_inputs_find_no_way_in_and_break_nothing(tmp_path: Path) -> None:
    findings = attack(400, seed=7, root=tmp_path, with_schemathesis=False)
    assert findings.wrong == []
    assert findings.sent.total() == 400
    # Refusals of every kind and answers: the inputs reach what they are meant to reach.
    assert {200, 400, 401, 403, 404} <= findings.statuses.keys()
