"""Forms with files, however they arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.wire.multipart import Data, MultipartParser, PartBegin, PartEnd, boundary_of

BOUNDARY = b"xYz"
Part = tuple[str, str | None, bytes]


def form(parts: list[Part], boundary: bytes = BOUNDARY) -> bytes:
    body = b""
    for name, filename, content in parts:
        shown = f'; filename="{filename}"' if filename is not None else ""
        head = f'Content-Disposition: form-data; name="{name}"{shown}\r\nContent-Type: x/y\r\n\r\n'
        body += b"--" + boundary + b"\r\n" + head.encode() + content + b"\r\n"
    return body + b"--" + boundary + b"--\r\n"


def read(pieces: list[bytes]) -> list[Part]:
    parser = MultipartParser(BOUNDARY)
    found: list[Part] = []
    open_part: tuple[PartBegin, bytearray] | None = None
    for piece in pieces:
        for event in parser.feed(piece):
            if isinstance(event, PartBegin):
                assert open_part is None
                open_part = event, bytearray()
            elif isinstance(event, Data):
                assert open_part is not None
                open_part[1].extend(event.content)
            else:
                assert isinstance(event, PartEnd)
                assert open_part is not None
                found.append((open_part[0].name, open_part[0].filename, bytes(open_part[1])))
                open_part = None
    parser.finish()
    return found


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(body[at : at + size])
        at += size
    return [*pieces, body[at:]]


# What looks like a boundary, or the beginning of one, and is none.
_CONTENT = st.lists(
    st.sampled_from([b"\r\n", b"--", b"xYz", b"\r\n--xY", b"\r", b"\n", b"--xYz", b"-", b"", b"a\0\xff", b"\r\n\r\n"])
).map(b"".join)


@given(
    contents=st.lists(_CONTENT.filter(lambda content: b"\r\n--xYz" not in b"\r\n" + content), max_size=4),
    sizes=st.lists(st.integers(0, 9), max_size=60),
)
def test_a_form_is_the_same_however_it_is_cut(contents: list[bytes], sizes: list[int]) -> None:
    parts: list[Part] = [(f"n{number}", None, content) for number, content in enumerate(contents)]
    assert read(cut(form(parts), sizes)) == parts


def test_names_are_read_as_browsers_and_curl_write_them() -> None:
    parts: list[Part] = [("file", "grüße.jsonl", b"1"), ("expires_after[anchor]", None, b"created_at")]
    assert read([form(parts)]) == parts
    quoted = form([("file", 'a\\"b', b"1")])
    assert read([quoted]) == [("file", 'a"b', b"1")]
    encoded = form([("file", "F", b"1")]).replace(b'filename="F"', b"filename*=UTF-8''%e2%82%ac.txt")
    assert read([encoded]) == [("file", "€.txt", b"1")]


def test_what_comes_before_and_behind_a_form_is_left_out() -> None:
    assert read([b"a preamble\r\n" + form([("a", None, b"1")]) + b"an epilogue" * 1000]) == [("a", None, b"1")]
    padded = form([("a", None, b"1")]).replace(b"--xYz\r\n", b"--xYz \t\r\n")
    assert read([padded]) == [("a", None, b"1")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        form([("a", None, b"1")])[:-6],
        b"--xYz\r\n\r\nno head\r\n--xYz--",
        b"--xYz\r\nContent-Type: x/y\r\n\r\n1\r\n--xYz--",
        b"--xYz\r\nContent-Disposition: form-data\r\n\r\n1\r\n--xYz--",
        b'--xYz\r\nContent-Disposition: attachment; name="a"\r\n\r\n1\r\n--xYz--',
        b'--xYz\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n--xYz--',
        b"--xYzzy\r\n" + b"x" * 100,
        b"--xYz\r\nX: " + b"x" * 9000,
        b"--xYz\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        form([(f"n{number}", None, b"") for number in range(33)]),
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        with pytest.raises(InvalidInputError) as caught:
            read(pieces)
        assert caught.value.code == "multipart_invalid"


def test_a_large_file_is_never_held() -> None:
    parser = MultipartParser(BOUNDARY)
    parser.feed(form([("file", "f", b"")])[: -len(b"\r\n--xYz--\r\n")])
    for _ in range(100):
        parser.feed(b"\r\n--xY" * 2000)
        assert len(parser._buffer) < 20


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        ("multipart/form-data", None),
        ("multipart/mixed; boundary=abc", None),
        ("application/json", None),
        ("", None),
        ("multipart/form-data; boundary=", None),
        (f"multipart/form-data; boundary={'x' * 71}", None),
        ("multipart/form-data; boundary=grüße", None),
    ],
)
def test_the_boundary_is_what_the_header_says(content_type: str, boundary: bytes | None) -> None:
    if boundary is None:
        with pytest.raises(InvalidInputError):
            boundary_of(content_type)
    else:
        assert boundary_of(content_type) == boundary
