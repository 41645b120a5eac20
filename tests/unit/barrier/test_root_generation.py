"""Root generation: nonce, one-time password, two slots; and who can get in the way."""

import base64
import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undercroft.barrier.root_generation import (
    IDLE_MS,
    OTP_LENGTH,
    Attempt,
    decode_root_token,
    encode_root_token,
)
from undercroft.config import Seal
from undercroft.errors import (
    Internal,
    InvalidRequest,
    PermissionDenied,
    Unavailable,
    UnsupportedOperation,
)
from undercroft.request.model import Operation

from .world import Ask, World

ATTEMPT, UPDATE = "sys/generate-root-token/attempt", "sys/generate-root-token/update"
OPEN_ATTEMPT, OPEN_UPDATE = "sys/generate-root/attempt", "sys/generate-root/update"


class Operators(World):
    """A server with 3 shares, 2 needed; `give` is one operator's step."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.shares = self.opened(3, 2)

    def begin(self, **fields: str) -> Any:
        return self.ask(ATTEMPT, token=self.token, **fields)

    def give(self, nonce: str, share: str) -> Any:
        return self.ask(UPDATE, token=self.token, nonce=nonce, key=share)

    def progress(self) -> int:
        return int(self.read(ATTEMPT)["progress"])


@pytest.fixture
def world(tmp_path: Path) -> Operators:
    return Operators(tmp_path)


@pytest.fixture
def opened(world: Operators) -> Operators:
    """With the configuration that opens the old endpoints."""
    world.config.enable_unauthenticated_access = ("generate-root",)
    return world


def test_enough_shares_give_a_root_token_that_only_the_password_reads(world: Operators) -> None:
    attempt = world.begin()
    assert world.give(attempt["nonce"], world.shares[0])["complete"] is False
    done = world.give(attempt["nonce"], world.shares[2])
    assert (done["complete"], done["progress"], done["required"]) == (True, 2, 2)
    token = decode_root_token(done["encoded_token"], attempt["otp"])
    found = world.ask("auth/token/lookup-self", Operation.READ, token)
    assert list(found["policies"]) == ["root"]
    assert world.read(ATTEMPT)["started"] is False


def test_a_password_may_be_brought_and_is_then_not_told(world: Operators) -> None:
    password = "abcdefghijklmnopqrstuvwxyz"
    attempt = world.begin(otp=password)
    assert attempt["otp"] == ""
    world.give(attempt["nonce"], world.shares[0])
    done = world.give(attempt["nonce"], world.shares[1])
    assert decode_root_token(done["encoded_token"], password).startswith("s.")


def test_a_password_of_another_length_is_refused(world: Operators) -> None:
    with pytest.raises(InvalidRequest, match="OTP string has incorrect length"):
        world.begin(otp="short")


def test_pgp_is_refused(world: Operators) -> None:
    with pytest.raises(InvalidRequest, match="pgp_key: encryption to PGP keys is not supported"):
        world.begin(pgp_key="x")


def test_one_attempt_at_a_time_and_its_password_is_told_once(world: Operators) -> None:
    attempt = world.begin()
    with pytest.raises(InvalidRequest, match="already in progress"):
        world.begin()
    shown = world.read(ATTEMPT)
    assert (shown["nonce"], shown["otp"]) == (attempt["nonce"], "")


def test_the_same_share_twice_is_refused_and_does_not_count(world: Operators) -> None:
    nonce = world.begin()["nonce"]
    world.give(nonce, world.shares[0])
    with pytest.raises(InvalidRequest, match="already been provided"):
        world.give(nonce, world.shares[0])
    assert world.progress() == 1


def test_wrong_shares_forget_the_progress_and_keep_the_attempt(world: Operators) -> None:
    nonce = world.begin()["nonce"]
    world.give(nonce, world.shares[0])
    with pytest.raises(InvalidRequest, match="root generation aborted"):
        world.give(nonce, "ab" * 33)
    assert world.progress() == 0
    world.give(nonce, world.shares[0])
    assert world.give(nonce, world.shares[1])["complete"] is True


@pytest.mark.parametrize(("missing", "given"), [("nonce", "key"), ("key", "nonce")])
def test_both_fields_are_required(world: Operators, missing: str, given: str) -> None:
    world.begin()
    with pytest.raises(InvalidRequest, match=f"{missing} is required"):
        world.ask(UPDATE, token=world.token, **{given: "x"})


def test_an_attempt_gives_one_token_at_most(world: Operators) -> None:
    """Also when two last shares come in one commit, and when that commit fails."""
    nonce = world.begin()["nonce"]
    world.give(nonce, world.shares[0])
    asks = [Ask(UPDATE, {"nonce": nonce, "key": s}, token=world.token) for s in world.shares[1:]]
    first, second = world.batch(*asks, commit=False)
    assert first.data["complete"] is True
    assert isinstance(second, InvalidRequest)
    with pytest.raises(InvalidRequest, match="no root generation in progress"):
        world.give(nonce, world.shares[1])


def test_threat_seal_01_every_step_needs_a_token(world: Operators) -> None:
    for path, operation in (
        (ATTEMPT, Operation.READ),
        (ATTEMPT, Operation.UPDATE),
        (ATTEMPT, Operation.DELETE),
        (UPDATE, Operation.UPDATE),
    ):
        with pytest.raises(PermissionDenied):
            world.ask(path, operation)
        with pytest.raises(PermissionDenied):
            world.ask(path, operation, "s.notatokennotatokennotato")


def test_threat_seal_01_a_wrong_nonce_neither_advances_nor_resets(world: Operators) -> None:
    nonce = world.begin()["nonce"]
    world.give(nonce, world.shares[0])
    for wrong in ("x", nonce.upper() + "x", nonce[:-1], "é"):
        with pytest.raises(InvalidRequest, match="incorrect nonce") as caught:
            world.give(wrong, world.shares[1])
        assert nonce not in caught.value.message
        assert world.progress() == 1
    assert world.give(nonce, world.shares[1])["complete"] is True


def test_threat_seal_01_a_new_attempt_has_another_nonce_and_no_old_shares(world: Operators) -> None:
    old = world.begin()["nonce"]
    world.give(old, world.shares[0])
    world.ask(ATTEMPT, Operation.DELETE, world.token)
    new = world.begin()["nonce"]
    assert (new != old, world.progress()) == (True, 0)
    with pytest.raises(InvalidRequest, match="incorrect nonce"):
        world.give(old, world.shares[1])


def test_threat_seal_02_without_a_token_it_is_off(world: Operators) -> None:
    for path, operation in (
        (OPEN_ATTEMPT, Operation.READ),
        (OPEN_ATTEMPT, Operation.UPDATE),
        (OPEN_ATTEMPT, Operation.DELETE),
        (OPEN_UPDATE, Operation.UPDATE),
    ):
        with pytest.raises(UnsupportedOperation):
            world.ask(path, operation)
        with pytest.raises(UnsupportedOperation):
            world.ask(path, operation, world.token)


def test_the_old_form_works_where_the_configuration_opens_it(opened: Operators) -> None:
    """Shapes as OpenBao answers with `disable_unauthed_generate_root_endpoints = false`."""
    idle = opened.ask(OPEN_ATTEMPT, Operation.READ)
    assert idle == {
        "nonce": "",
        "started": False,
        "progress": 0,
        "required": 2,
        "complete": False,
        "encoded_token": "",
        "encoded_root_token": "",
        "pgp_fingerprint": "",
        "otp": "",
        "otp_length": 26,
    }
    attempt = opened.ask(OPEN_ATTEMPT)
    assert (len(attempt["otp"]), attempt["started"]) == (26, True)
    opened.ask(OPEN_UPDATE, nonce=attempt["nonce"], key=opened.shares[0])
    done = opened.ask(OPEN_UPDATE, nonce=attempt["nonce"], key=opened.shares[1])
    assert (done["otp"], done["otp_length"], done["complete"]) == ("", 0, True)
    assert done["encoded_root_token"] == done["encoded_token"]
    token = decode_root_token(done["encoded_token"], attempt["otp"])
    assert opened.ask("auth/token/lookup-self", Operation.READ, token)["path"] == "auth/token/root"


def test_threat_seal_02_operators_finish_under_a_flood_without_a_token(opened: Operators) -> None:
    def flood() -> None:
        for _ in range(50):
            opened.now_ms += 6_000  # as fast as it is allowed to
            for operation in (Operation.UPDATE, Operation.DELETE):
                opened.batch(Ask(OPEN_ATTEMPT, {}, operation))
            opened.batch(Ask(OPEN_UPDATE, {"nonce": "x", "key": "ab" * 33}))

    flood()
    nonce = opened.begin()["nonce"]
    flood()
    opened.give(nonce, opened.shares[0])
    flood()
    assert opened.give(nonce, opened.shares[1])["complete"] is True


def test_threat_seal_02_starts_and_cancels_without_a_token_are_rationed(opened: Operators) -> None:
    def cancels(count: int) -> int:
        asks = [Ask(OPEN_ATTEMPT, None, Operation.DELETE)] * count
        return sum(isinstance(answer, Unavailable) for answer in opened.batch(*asks))

    assert cancels(12) == 2
    opened.now_ms += 6_000
    assert cancels(2) == 1


def test_threat_seal_02_an_abandoned_attempt_without_a_token_gives_way(opened: Operators) -> None:
    opened.ask(OPEN_ATTEMPT)
    opened.now_ms += IDLE_MS - 1
    with pytest.raises(InvalidRequest, match="already in progress"):
        opened.ask(OPEN_ATTEMPT)
    opened.now_ms += 1
    assert opened.ask(OPEN_ATTEMPT)["started"] is True


def test_recovery_shares_of_a_static_seal_prove_the_operators(tmp_path: Path) -> None:
    world = World(tmp_path, Seal(type="static", current_key_id="k", current_key=bytes(32)))
    shares = world.init(0, recovery_shares=3, recovery_threshold=2)
    attempt = world.ask(ATTEMPT, token=world.token)
    assert attempt["required"] == 2
    send = {"token": world.token, "nonce": attempt["nonce"]}
    with pytest.raises(InvalidRequest, match="aborted"):
        [world.ask(UPDATE, key=key, **send) for key in (shares[0], "ab" * 33)]
    done = [world.ask(UPDATE, key=key, **send) for key in shares[1:]][-1]
    assert decode_root_token(done["encoded_token"], attempt["otp"]).startswith("s.")


def test_without_recovery_keys_there_is_nothing_to_prove_it_with(tmp_path: Path) -> None:
    world = World(tmp_path, Seal(type="static", current_key_id="k", current_key=bytes(32)))
    world.init(0)
    with pytest.raises(InvalidRequest, match="without recovery keys"):
        world.ask(ATTEMPT, token=world.token)


TOKENS = st.text("abcXYZ019", min_size=24, max_size=24).map("s.".__add__)
PASSWORDS = st.text("abcXYZ019", min_size=OTP_LENGTH, max_size=OTP_LENGTH)


@given(TOKENS, PASSWORDS)
def test_the_encoding_is_base64_without_padding_of_the_xor(token: str, password: str) -> None:
    encoded = encode_root_token(token, password)
    assert "=" not in encoded
    raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    assert bytes(a ^ b for a, b in zip(raw, password.encode(), strict=True)) == token.encode()
    assert decode_root_token(encoded, password) == token


def test_a_token_that_openbao_encoded_decodes() -> None:
    encoded, password = "PndJNh0aJhAWHj0rMgMtMBAnCwQ+NAchFGU", "MYyBsXVynGsEpLuSSAotNX5bm3"
    assert decode_root_token(encoded, password) == "s.0tnBpixYNnBOXcCfdppl2CyV"


@given(st.text(max_size=60), st.text(max_size=30))
def test_what_does_not_belong_together_is_refused(encoded: str, password: str) -> None:
    with contextlib.suppress(InvalidRequest):  # and nothing else is ever raised
        assert len(decode_root_token(encoded, password)) == len(password.encode())


def test_a_token_is_never_sent_partly_in_the_clear() -> None:
    with pytest.raises(Internal):
        encode_root_token("s.longer than its password, by far", "x" * OTP_LENGTH)


def test_threat_aud_08_no_repr_of_an_attempt_shows_its_password() -> None:
    attempt = Attempt("SECRETPASSWORDSECRETPASSWO", 0)
    attempt.collected.add(b"SECRET" * 5)
    assert "SECRET" not in repr(attempt) + repr(attempt.collected)
