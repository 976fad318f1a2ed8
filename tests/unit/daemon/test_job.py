from __future__ import annotations

import pytest

from fastapi_foundry.daemon.job import CancelledByClientError, Job


def test_an_answer_that_was_cut_off_used_up_its_tokens():
    job = Job(1, tokens=1, limits=(60, 3))
    assert job.cut_off() == job.usage == {"prompt_tokens": 60, "completion_tokens": 3, "total_tokens": 63}
    assert job.tokens == 3


def test_a_cancelled_call_was_cut_off_by_its_client():
    job = Job(1, limits=(60, 3))
    job.cancel()
    with pytest.raises(CancelledByClientError):
        job.cut_off()
    assert job.usage is None
