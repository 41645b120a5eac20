"""The seal over the real store: init, unseal, seal, static keys, and what a commit may not do."""

import itertools
from pathlib import Path

import msgspec
import pytest

from undercroft.barrier import seal_store
from undercroft.barrier.keyring import Keyring
from undercroft.barrier.seal import SealManager
from undercroft.barrier.shares import parse_share
from undercroft.config import Seal
from undercroft.errors import Corrupt, InvalidRequest, Sealed
from undercroft.request.model import Operation

from .world import DEFAULT_SEAL, Ask, World

KEY_1, KEY_2, KEY_3 = (bytes((n,)) * 32 for n in (1, 2, 3))


def static(key_id: str = "k1", key: bytes = KEY_1, previous: tuple[str, bytes] = ("", b"")) -> Seal:
    return Seal(
        type="static",
        current_key_id=key_id,
        current_key=key,
        previous_key_id=previous[0],
        previous_key=previous[1],
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# init


def test_after_init_a_shamir_server_is_initialised_and_still_sealed(world: World) -> None:
    world.init(5, 3)
    assert world.services.state.initialized
    assert world.services.state.sealed
    assert (world.services.state.shares, world.services.state.threshold) == (5, 3)
    assert world.store.keyring is None
    with pytest.raises(Sealed):
        world.put(b"value")


@pytest.mark.parametrize(("shares", "threshold"), [(1, 1), (2, 2), (5, 3), (255, 2), (255, 255)])
def test_any_counts_up_to_255(world: World, shares: int, threshold: int) -> None:
    made = world.init(shares, threshold)
    assert len(made) == shares
    assert world.unseal(*made[-threshold:])["sealed"] is False


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ({}, "shares must be at least one"),
        ({"secret_shares": 5}, "threshold must be at least one"),
        ({"secret_shares": 5, "secret_threshold": 1}, "threshold must be greater than one"),
        ({"secret_shares": 5, "secret_threshold": 6}, "threshold cannot be larger than shares"),
        ({"secret_shares": 256, "secret_threshold": 5}, "shares must be less than 256"),
        ({"secret_shares": 255, "secret_threshold": 256}, "threshold must be less than 256"),
        ({"secret_shares": -1, "secret_threshold": 1}, "shares must be at least one"),
        (
            {"secret_shares": 5, "secret_threshold": 3, "recovery_shares": 1},
            "parameters recovery_shares not applicable to seal type shamir",
        ),
    ],
)
def test_counts_are_refused_in_openbaos_words(
    world: World, counts: dict[str, int], problem: str
) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        world.ask("sys/init", **counts)
    assert not world.services.state.initialized


@pytest.mark.parametrize("name", ["pgp_keys", "root_token_pgp_key"])
def test_pgp_keys_are_refused_before_anything_is_written(world: World, name: str) -> None:
    """OpenBao initialises first and then fails on a bad key: nobody has the shares then."""
    with pytest.raises(InvalidRequest, match=f"{name}: encryption to PGP keys is not supported"):
        world.ask("sys/init", secret_shares=1, secret_threshold=1, **{name: "x"})
    assert world.ask("sys/init", Operation.READ) == {"initialized": False}


def test_a_second_init_is_refused_also_in_the_same_commit(world: World) -> None:
    ask = Ask("sys/init", {"secret_shares": 1, "secret_threshold": 1})
    first, second = world.batch(ask, ask)
    assert isinstance(second, InvalidRequest)
    assert second.message == "Vault is already initialized"
    key = msgspec.json.decode(first.raw.body)["keys"][0]
    assert world.unseal(key)["sealed"] is False


def test_threat_tok_18_no_root_token_is_left_by_an_init_that_failed(world: World) -> None:
    world.fail_bootstrap = True
    with pytest.raises(RuntimeError):
        world.change(
            lambda tx: world.manager.initialize(tx, shares=1, threshold=1, now_ms=world.now_ms)
        )
    world.restart()
    assert not world.services.state.initialized
    assert world.see(lambda view: list(view.keys(b""))) == []


@pytest.mark.parametrize(
    ("seal", "shares"),
    [(DEFAULT_SEAL, {"secret_shares": 1, "secret_threshold": 1}), (static(), {})],
    ids=["shamir", "static"],
)
def test_threat_tok_18_nor_by_one_whose_commit_failed(
    tmp_path: Path, seal: Seal, shares: dict[str, int]
) -> None:
    world = World(tmp_path, seal)
    (answer,) = world.batch(Ask("sys/init", shares), commit=False)
    assert not isinstance(answer, Exception)
    assert not world.services.state.initialized
    assert world.see(lambda view: list(view.keys(b""))) == []
    assert world.events == []


# unseal


def test_any_three_of_five_shares_unseal_in_hexadecimal_or_base64(tmp_path: Path) -> None:
    world = World(tmp_path)
    body = world.ask("sys/init", secret_shares=5, secret_threshold=3)
    forms = list(zip(body["keys"], body["keys_base64"], strict=True))
    for number, chosen in enumerate(itertools.combinations(forms, 3)):
        shares = [pair[(number + place) % 2] for place, pair in enumerate(chosen)]
        assert world.unseal(*shares)["sealed"] is False
        world.restart()


def test_progress_counts_different_shares_and_keeps_one_nonce(world: World) -> None:
    shares = world.init()
    first = world.unseal(shares[0])
    again = world.unseal(shares[0])
    second = world.unseal(shares[1])
    assert [a["progress"] for a in (first, again, second)] == [1, 1, 2]
    assert first["nonce"]
    assert first["nonce"] == again["nonce"] == second["nonce"]
    done = world.unseal(shares[2])
    assert (done["sealed"], done["progress"], done["nonce"]) == (False, 0, "")
    assert (done["cluster_name"], done["cluster_id"]) == ("c-name", "c-id")


def test_reset_forgets_the_shares_and_the_next_attempt_has_another_nonce(world: World) -> None:
    shares = world.init()
    before = world.unseal(shares[0])
    reset = world.ask("sys/unseal", reset=True, key=shares[1])
    assert (reset["progress"], reset["nonce"]) == (0, "")
    assert world.unseal(shares[0])["nonce"] not in ("", before["nonce"])


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("ab" * 33, "do not combine to the key of this server"),
        ("ab" * 20, "all parts must be the same length"),
    ],
)
def test_a_wrong_set_of_shares_is_refused_and_starts_over(
    world: World, wrong: str, problem: str
) -> None:
    shares = world.init()
    with pytest.raises(InvalidRequest, match=problem):
        world.unseal(shares[0], shares[1], wrong)
    assert world.ask("sys/seal-status", Operation.READ)["progress"] == 0
    assert world.unseal(*shares[:3])["sealed"] is False


def test_two_values_for_one_coordinate_are_refused(world: World) -> None:
    shares = world.init()
    flipped = ("00" if shares[0][:2] != "00" else "11") + shares[0][2:]
    with pytest.raises(InvalidRequest, match="duplicate part detected"):
        world.unseal(shares[0], shares[1], flipped)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("zz!", "'key' must be a valid hex or base64 string"),
        ("abcd", "key is shorter than minimum 16 bytes"),
        ("00" * 15, "'key' must be a valid hex or base64 string"),
        ("00" * 40, "key is longer than maximum 33 bytes"),
        (" " + "00" * 33, "'key' must be a valid hex or base64 string"),
        ("", "'key' must be specified in request body as JSON, or 'reset' set to true"),
    ],
)
def test_what_is_no_share_is_refused_and_does_not_count(
    world: World, text: str, problem: str
) -> None:
    world.init()
    with pytest.raises(InvalidRequest, match=problem) as caught:
        world.unseal(text)
    assert not text.strip("0 ") or text not in caught.value.message
    assert world.ask("sys/seal-status", Operation.READ)["progress"] == 0


def test_shares_for_an_empty_store_are_refused(world: World) -> None:
    with pytest.raises(InvalidRequest, match="Vault is not initialized"):
        world.unseal("ab" * 33)


def test_nothing_is_unsealed_by_a_commit_that_failed(world: World) -> None:
    (share,) = world.init(1, 1)
    world.batch(Ask("sys/unseal", {"key": share}), commit=False)
    assert world.events == []
    assert not world.manager.unsealed
    assert world.unseal(share)["sealed"] is False


def test_a_share_that_comes_with_the_last_one_in_one_commit_leaves_no_attempt(world: World) -> None:
    shares = world.init(3, 2)
    world.unseal(shares[0])
    world.batch(*(Ask("sys/unseal", {"key": share}) for share in shares[1:]))
    state = world.services.state
    assert (state.sealed, state.unseal.progress, state.unseal.nonce) == (False, 0, "")


def test_an_unsealed_server_takes_shares_without_effect_and_no_reset(world: World) -> None:
    shares = world.opened()
    assert world.unseal(shares[4])["progress"] == 0
    with pytest.raises(InvalidRequest, match="vault is unsealed"):
        world.ask("sys/unseal", reset=True)


# seal


def test_seal_drops_the_keys_and_unseal_brings_the_data_back(world: World) -> None:
    shares = world.opened()
    world.put(b"value")
    world.ask("sys/seal", token=world.token)
    assert world.store.keyring is None
    assert not world.manager.unsealed
    with pytest.raises(Sealed):
        world.get()
    world.unseal(*shares[2:])
    assert world.get() == b"value"


def test_seal_wants_a_token_unless_it_is_sealed_already(world: World) -> None:
    world.opened()
    with pytest.raises(Exception, match="permission denied"):
        world.ask("sys/seal")
    assert world.manager.unsealed
    world.ask("sys/seal", token=world.token)
    assert world.ask("sys/seal") is None


def test_nothing_in_the_same_commit_opens_what_was_just_sealed(world: World) -> None:
    shares = world.opened()
    world.batch(
        Ask("sys/seal", token=world.token),
        Ask("sys/rotate", token=world.token),
        Ask("sys/unseal", {"key": shares[0]}),
    )
    assert world.events[-1] == "sealed"
    assert world.store.keyring is None
    assert not world.manager.unsealed
    world.unseal(*shares[:3])
    assert world.read("sys/key-status")["term"] == 2


def test_the_seal_forgets_a_root_generation(world: World) -> None:
    shares = world.opened()
    world.ask("sys/generate-root-token/attempt", token=world.token)
    world.ask("sys/seal", token=world.token)
    world.unseal(*shares[:3])
    assert world.read("sys/generate-root-token/attempt")["started"] is False


# another process of the node gives the keyring back


def test_a_restarted_writer_takes_the_keyring_that_a_worker_still_has(world: World) -> None:
    world.opened()
    world.put(b"value")
    offered = world.store.keyring
    assert offered is not None
    world.restart()
    keyring = world.see(
        lambda view: world.manager.recover(view, Keyring.deserialize(offered.serialize()))
    )
    world.manager.adopt(keyring)
    assert world.get() == b"value"
    assert world.read("sys/key-status")["encryptions"] >= offered.encryptions


def test_an_offer_from_before_a_rotation_gives_the_rotated_keyring(world: World) -> None:
    world.opened()
    stale = world.store.keyring
    world.ask("sys/rotate", token=world.token)
    world.put(b"under term 2")
    world.restart()
    world.manager.adopt(world.see(lambda view: world.manager.recover(view, stale)))
    assert world.get() == b"under term 2"


def test_a_foreign_keyring_is_not_taken(world: World) -> None:
    assert world.see(lambda view: world.manager.recover(view, Keyring.generate(0))) is None
    world.opened()
    assert world.see(lambda view: world.manager.recover(view, Keyring.generate(0))) is None


# static


def test_a_static_server_opens_with_its_init_and_at_every_start(tmp_path: Path) -> None:
    world = World(tmp_path, static())
    assert world.init(0) == []
    assert not world.services.state.sealed
    world.put(b"value")
    world.restart()
    assert world.services.state.sealed
    assert world.auto_unseal()
    assert world.get() == b"value"


def test_a_static_server_opens_only_once_its_init_is_committed(tmp_path: Path) -> None:
    world = World(tmp_path, static())
    world.batch(Ask("sys/init", {}), commit=False)
    assert world.events == []
    assert not world.auto_unseal()


def test_the_previous_key_opens_the_seal_and_the_current_one_takes_over(tmp_path: Path) -> None:
    world = World(tmp_path, static("k1", KEY_1))
    world.init(0)
    world.put(b"value")
    world.restart(static("k2", KEY_2, previous=("k1", KEY_1)))
    assert world.auto_unseal()
    world.restart(static("k2", KEY_2))
    assert world.auto_unseal()
    assert world.get() == b"value"
    world.restart(static("k1", KEY_1))
    with pytest.raises(InvalidRequest, match="does not name"):
        world.auto_unseal()


def test_a_wrong_static_key_is_a_clear_error(tmp_path: Path) -> None:
    world = World(tmp_path, static("k1", KEY_1))
    world.init(0)
    world.restart(static("k1", KEY_3))
    with pytest.raises(InvalidRequest, match="key does not open this store") as caught:
        world.auto_unseal()
    assert caught.value.hint
    world.restart(static("k9", KEY_1))
    with pytest.raises(InvalidRequest, match="does not name"):
        world.auto_unseal()


def test_another_type_of_seal_than_the_stores_is_a_clear_error(tmp_path: Path) -> None:
    world = World(tmp_path)
    shares = world.init(1, 1)
    world.restart(static())
    with pytest.raises(InvalidRequest, match="initialised with seal shamir"):
        world.auto_unseal()
    with pytest.raises(InvalidRequest, match="initialised with seal shamir"):
        world.unseal(*shares)


def test_a_static_server_that_was_sealed_stays_sealed_and_says_what_helps(tmp_path: Path) -> None:
    world = World(tmp_path, static())
    world.init(0)
    world.ask("sys/seal", token=world.token)
    with pytest.raises(InvalidRequest, match="unsealed by the key of its configuration") as caught:
        world.unseal("ab" * 32)
    assert "restart" in caught.value.hint
    assert not world.manager.unsealed


@pytest.mark.parametrize(
    "seal",
    [
        Seal(type="static"),
        static("", KEY_1),
        static("k1", b"short"),
        static("k1", KEY_1, previous=("k1", KEY_2)),
        static("k1", KEY_1, previous=("k0", b"")),
        Seal(type="awskms"),
    ],
)
def test_settings_that_cannot_seal_are_refused_at_start(tmp_path: Path, seal: Seal) -> None:
    with pytest.raises(InvalidRequest):
        World(tmp_path, seal)


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        (
            {"secret_shares": 5, "secret_threshold": 3},
            "parameters secret_shares,secret_threshold not applicable to seal type static",
        ),
        (
            {"recovery_shares": 5, "recovery_threshold": 1},
            "invalid recovery configuration: threshold must be greater than one",
        ),
        ({"recovery_threshold": 1}, "invalid recovery configuration: shares must be at least one"),
    ],
)
def test_recovery_counts_are_refused_in_openbaos_words(
    tmp_path: Path, counts: dict[str, int], problem: str
) -> None:
    world = World(tmp_path, static())
    with pytest.raises(InvalidRequest, match=problem):
        world.ask("sys/init", **counts)


# what lies in the store


@pytest.mark.parametrize("tampered", [(5, 2), (4, 3), (255, 3)])
def test_a_tampered_seal_config_does_not_open(world: World, tampered: tuple[int, int]) -> None:
    """It is readable by all, and authenticated with the root key: the right shares fail too."""
    shares = world.init(5, 3)
    config = seal_store.SealConfig("shamir", *tampered)
    world.change(lambda tx: seal_store.write_config(tx, config))
    with pytest.raises(InvalidRequest, match="do not combine"):
        world.unseal(*shares[: tampered[1]])


@pytest.mark.parametrize("entry", [seal_store.ROOT_KEY_KEY, seal_store.KEYRING_KEY])
def test_a_missing_entry_of_the_seal_is_corruption(world: World, entry: bytes) -> None:
    (share,) = world.init(1, 1)
    world.change(lambda tx: tx.delete(entry))
    with pytest.raises(Corrupt, match="missing"):
        world.unseal(share)


def test_an_unknown_format_is_corruption(world: World) -> None:
    world.change(lambda tx: tx.put_clear(seal_store.CONFIG_KEY, b"\x02anything"))
    with pytest.raises(Corrupt, match="unknown format"):
        world.see(world.manager.status)


def test_no_key_lies_in_the_store_in_clear(world: World) -> None:
    shares = world.opened(1, 1)
    keyring = world.store.keyring
    assert keyring is not None
    secrets = [bytes.fromhex(shares[0]), keyring.root_key, *(t.key for t in keyring.terms)]
    world.store.close()
    held = b"".join(file.read_bytes() for file in world.directory.iterdir() if file.is_file())
    assert seal_store.CONFIG_KEY in held
    assert not any(secret in held for secret in secrets)


@pytest.mark.parametrize(
    "text", ["\x00" * 66, "é" * 66, "=" * 44, "f" * 1_000_000, "00" * 9, "\ud800" * 44]
)
def test_threat_seal_08_shares_of_any_shape_leave_the_server_standing(
    world: World, text: str
) -> None:
    shares = world.init()
    with pytest.raises(InvalidRequest) as caught:
        world.change(lambda tx: world.manager.unseal(tx, parse_share(text)))
    assert text not in caught.value.message
    world.restart()
    assert world.unseal(*shares[:3])["sealed"] is False


def test_threat_aud_08_no_repr_of_the_seal_shows_a_secret(tmp_path: Path) -> None:
    seal = static("k1", b"SECRETSECRETSECRETSECRETSECRETSE")
    manager = SealManager(
        seal,
        on_keyring=lambda keyring: None,
        on_sealed=lambda: None,
        on_progress=lambda: None,
        bootstrap=lambda tx, now_ms: "s.SECRET",
    )
    store = World(tmp_path, DEFAULT_SEAL).store
    tx = store.batch(lambda: 0).transaction()
    made = manager.initialize(tx, recovery_shares=2, recovery_threshold=2, now_ms=0)
    stored = seal_store.StoredKeyring(Keyring.generate(0).terms)
    shown = "".join(map(repr, (seal, manager, made, stored, manager.renewal)))
    assert "SECRET" not in shown
    assert "key=b" not in shown
