from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_foundry.wire.sse import DONE, Event, SSEDecoder, WholeFrames, comment, encode_json

STREAM = (
    b"\xef\xbb\xbf: a comment\r\n\r\n"
    b'event: delta\ndata: {"a":1}\n\n'
    b"data: line one\r\ndata: line \xc3\xa4\r\n\r\n"
    b"id: 7\rdata:no blank\r\r"
    b"data\n\n"
    b"event: forgotten without data\n\n"
    b"retry: 5\nunknown: x\ndata:  two blanks\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [
    Event(b'{"a":1}', "delta"),
    Event(b"line one\nline \xc3\xa4"),
    Event(b"no blank", id="7"),
    Event(b"", id="7"),
    Event(b" two blanks", id="7"),
    Event(b"[DONE]", id="7"),
]


def test_decoder_follows_the_standard() -> None:
    assert SSEDecoder().feed(STREAM) == EVENTS


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_decoder_gives_the_same_events_at_every_split(at: int) -> None:
    decoder = SSEDecoder()
    assert decoder.feed(STREAM[:at]) + decoder.feed(STREAM[at:]) == EVENTS


def test_decoder_gives_the_same_events_byte_by_byte() -> None:
    decoder = SSEDecoder()
    assert [event for byte in STREAM for event in decoder.feed(bytes([byte]))] == EVENTS


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none())), st.data())
def test_what_is_encoded_is_decoded_however_it_is_cut(values: list[object], data: st.DataObject) -> None:
    stream = b"".join(encode_json(value) for value in values) + comment("x\ny") + DONE
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    decoder = SSEDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    assert [orjson.loads(event.data) for event in events[:-1]] == values
    assert events[-1].data == b"[DONE]"


def test_encoder_writes_the_event_name_first() -> None:
    assert encode_json({"a": 1}, event="x") == b'event: x\ndata: {"a":1}\n\n'


def test_decoder_refuses_an_event_without_end() -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    decoder.feed(b"data: " + b"x" * 50 + b"\n")
    with pytest.raises(ValueError, match="100 bytes"):
        decoder.feed(b"data: " + b"x" * 60)


@given(st.data())
def test_whole_frames_loses_nothing_and_passes_only_whole_frames(data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r"]))
    frames = [b"data: %d" % number + end for number in range(data.draw(st.integers(0, 6)))]
    stream = b"".join(frames) + data.draw(st.sampled_from([b"", b"data: unfin"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    splitter = WholeFrames()
    passed = [splitter.feed(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert all(not piece or piece.endswith(end) for piece in passed)
    assert b"".join(passed) == b"".join(frames)
    assert splitter.flush() == stream[len(b"".join(frames)) :]


def test_whole_frames_hands_a_whole_chunk_through_uncopied() -> None:
    chunk = b"data: 1\n\ndata: 2\n\n"
    assert WholeFrames().feed(chunk) is chunk
