"""The lightest of three keys waits about as long at a slow runner as it would beside one other client, live."""

from __future__ import annotations

from pathlib import Path

from tests.faults.fairness import Load, busy_gateway, of_one_other, of_three, problems


async def test_the_lightest_key_waits_about_as_long_as_beside_one_other_client(tmp_path: Path) -> None:
    # Fewer workers than the queue lets one key have, since a client that is refused waits a whole second.
    load = Load(requests=333, service_s=0.006, workers=60, think_turns=15.0)
    async with busy_gateway(tmp_path, load) as gateway:
        three = await of_three(gateway, load)
        two = await of_one_other(gateway, load)
    assert problems(three, load) + problems(two, load) == []
    # The median of three waits, told in whole milliseconds: of 66 that wait it has to be one of the first few.
    assert three.light_s <= 1.5 * two.light_s + 2 * load.service_s
