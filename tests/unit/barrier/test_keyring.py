"""The keyring: terms, rotation, and its way to another process."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.barrier.aead import NotOpened, unwrap, wrap
from undercroft.barrier.keyring import Keyring, KeyTerm, UnknownTerm
from undercroft.errors import Corrupt

NOW_MS = 1_800_000_000_000


def test_what_an_old_term_encrypted_stays_readable_after_rotations() -> None:
    keyring = Keyring.generate(NOW_MS)
    sealed = [keyring.encrypt(b"name", b"first")]
    for _ in range(3):
        keyring = keyring.rotated(NOW_MS + 1)
        sealed.append(keyring.encrypt(b"name", b"later"))
    assert [keyring.decrypt(b"name", s) for s in sealed] == [b"first", *[b"later"] * 3]
    assert [s[:4] for s in sealed] == [bytes((0, 0, 0, n)) for n in (1, 2, 3, 4)]
    assert len({t.key for t in keyring.terms}) == 4


def test_a_serialised_keyring_is_the_same_keyring() -> None:
    keyring = Keyring.generate(NOW_MS).rotated(NOW_MS + 1)
    sealed = keyring.encrypt(b"name", b"value")
    again = Keyring.deserialize(keyring.serialize())
    assert again.decrypt(b"name", sealed) == b"value"
    assert (again.terms, again.root_key) == (keyring.terms, keyring.root_key)
    assert again.encryptions == 1


@given(st.binary(max_size=200))
def test_whatever_is_not_a_keyring_is_corrupt(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        Keyring.deserialize(raw)


def test_every_truncation_of_a_keyring_is_corrupt() -> None:
    raw = Keyring.generate(NOW_MS).serialize()
    for size in range(len(raw)):
        with pytest.raises(Corrupt):
            Keyring.deserialize(raw[:size])


def test_a_term_not_heard_of_yet_is_told_apart_from_damage() -> None:
    old = Keyring.generate(NOW_MS)
    sealed = old.rotated(NOW_MS).encrypt(b"name", b"value")
    with pytest.raises(UnknownTerm):
        old.decrypt(b"name", sealed)
    mine = old.encrypt(b"name", b"value")
    with pytest.raises(Corrupt) as caught:
        old.decrypt(b"other", mine)
    assert not isinstance(caught.value, UnknownTerm)


@given(st.binary(max_size=64), st.data())
def test_threat_seal_04_any_flipped_bit_is_the_same_failure(
    plaintext: bytes, data: st.DataObject
) -> None:
    sealed = bytearray(wrap(bytes(32), b"purpose", plaintext))
    assert unwrap(bytes(32), b"purpose", bytes(sealed)) == plaintext
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NotOpened) as caught:
        unwrap(bytes(32), b"purpose", bytes(sealed))
    assert caught.value.args == ()
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(31), bytes(33), b"\1" * 32])
def test_threat_seal_04_a_wrong_key_is_that_failure_too(key: bytes) -> None:
    sealed = wrap(bytes(32), b"purpose", b"value")
    with pytest.raises(NotOpened):
        unwrap(key, b"purpose", sealed)
    with pytest.raises(NotOpened):
        unwrap(bytes(32), b"another purpose", sealed)


def test_threat_aud_08_no_repr_shows_a_key() -> None:
    term = KeyTerm(1, b"SECRETSECRETSECRETSECRETSECRETSE", NOW_MS)
    keyring = Keyring((term,), b"SECRETSECRETSECRETSECRETSECRETSE")
    assert "SECRET" not in repr(term) + repr(keyring) + str(keyring)
