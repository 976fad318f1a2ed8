"""The text of a key: recognisable, checkable, unguessable."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from fastapi_foundry.security.key_format import (
    PREFIX,
    has_valid_checksum,
    hash_key,
    looks_like_key,
    new_key,
    shown_prefix,
)

ALPHABET = string.digits + string.ascii_letters


def test_keys_have_one_form_and_are_all_different() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {42}
    assert all(has_valid_checksum(key) and looks_like_key(key) for key in keys)
    assert set("".join(key.removeprefix(PREFIX) for key in keys)) == set(ALPHABET)


@given(st.integers(4, 35), st.text(ALPHABET, min_size=1, max_size=4))
def test_a_key_with_a_typing_error_is_refused_without_the_store(at: int, typed: str) -> None:
    key = new_key()
    typed = typed[: 36 - at]
    wrong = key[:at] + typed + key[at + len(typed) :]
    assert has_valid_checksum(wrong) is (wrong == key)


@given(st.text(max_size=60))
def test_nothing_else_is_taken_for_a_key(text: str) -> None:
    assert not has_valid_checksum(text)
    assert not has_valid_checksum(PREFIX + text)


def test_a_key_that_is_cut_or_followed_by_something_is_refused() -> None:
    key = new_key()
    assert not has_valid_checksum(key[:-1])
    assert not has_valid_checksum(key + "0")
    assert not has_valid_checksum(key.lower())
    assert not has_valid_checksum("ffk-" + key[4:])


def test_what_is_kept_of_a_key_does_not_hold_it() -> None:
    key = new_key()
    assert hash_key(key) != hash_key(new_key())
    assert len(hash_key(key)) == 64
    assert key not in hash_key(key)
    assert shown_prefix(key) == key[:10]
