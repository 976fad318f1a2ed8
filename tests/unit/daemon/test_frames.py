from __future__ import annotations

import orjson
import pytest

from fastapi_foundry.daemon import frames


def test_a_chunk_line_is_json_and_splits_into_what_it_was_made_of():
    line = frames.chunk_line(12, b'{"a":"}"}')
    assert orjson.loads(line) == {"event": "chunk", "id": 12, "data": {"a": "}"}}
    assert frames.split_chunk(line.rstrip(b"\n")) == (12, b'{"a":"}"}')


@pytest.mark.parametrize("message", [{"event": "done", "id": 1}, {"event": "ready"}])
def test_other_frames_are_no_chunks(message: dict[str, object]):
    line = frames.encode(message)
    assert line.endswith(b"\n")
    assert frames.split_chunk(line.rstrip(b"\n")) is None
