"""sys/mounts, sys/auth, sys/remount beside OpenBao."""

from tests.conformance.pair import Pair


def test_the_default_mounts_look_the_same(pair: Pair) -> None:
    pair.same("GET", "sys/mounts/cubbyhole", status=200)
    pair.same("GET", "sys/mounts/sys", status=200)
    pair.same("GET", "sys/auth/token", status=200)
    pair.same("GET", "sys/auth", status=200)


def test_an_engine_is_mounted_shown_tuned_and_unmounted(pair: Pair) -> None:
    body = {
        "type": "kv",
        "description": "for the test",
        "options": {"version": "2"},
        "config": {"default_lease_ttl": "1h", "max_lease_ttl": 7200},
    }
    pair.same("POST", "sys/mounts/m1/kv", body, status=204)
    pair.same("GET", "sys/mounts/m1/kv", status=200)
    pair.same("GET", "sys/mounts/m1/kv/tune", status=200)
    tune = {"description": "changed", "max_lease_ttl": "3h", "listing_visibility": "unauth"}
    pair.same("POST", "sys/mounts/m1/kv/tune", tune, status=204)
    pair.same("GET", "sys/mounts/m1/kv/tune", status=200)
    pair.same("GET", "sys/mounts/m1/kv", status=200)
    pair.same("DELETE", "sys/mounts/m1/kv", status=204)
    pair.same("GET", "sys/mounts/m1/kv", status=400)
    pair.same("DELETE", "sys/mounts/m1/kv", status=204)


def test_a_path_in_use_above_or_below_is_refused(pair: Pair) -> None:
    pair.same("POST", "sys/mounts/m2/a", {"type": "kv"}, status=204)
    pair.same("POST", "sys/mounts/m2/a", {"type": "kv"}, status=400)
    pair.same("POST", "sys/mounts/m2/a/b", {"type": "kv"}, status=400)
    pair.same("POST", "sys/mounts/m2", {"type": "kv"}, status=400)
    pair.same("DELETE", "sys/mounts/m2/a", status=204)


def test_protected_paths_cannot_be_mounted_or_unmounted(pair: Pair) -> None:
    for path in ("sys", "cubbyhole", "auth/x", "sys/below"):
        pair.same("POST", f"sys/mounts/{path}", {"type": "kv"}, status=400)
    for path in ("sys", "cubbyhole"):
        pair.same("DELETE", f"sys/mounts/{path}", status=400)
    pair.same("DELETE", "sys/auth/token", status=400)


def test_a_mount_needs_a_known_type_and_sensible_tuning(pair: Pair) -> None:
    pair.same("POST", "sys/mounts/m3", {}, status=400)
    # OpenBao repeats the type that was sent; ours never echoes a value.
    pair.same("POST", "sys/mounts/m3", {"type": "nope"}, status=400, errors=False)
    pair.same("POST", "sys/auth/m3", {"type": "kv"}, status=400, errors=False)
    bad = {"type": "kv", "config": {"default_lease_ttl": "2h", "max_lease_ttl": "1h"}}
    pair.same("POST", "sys/mounts/m3", bad, status=400)
    bad = {"type": "kv", "options": {"version": "3"}}
    pair.same("POST", "sys/mounts/m3", bad, status=400, errors=False)


def test_the_short_names_of_kv_choose_the_version(pair: Pair) -> None:
    pair.same("POST", "sys/mounts/m4", {"type": "kv-v2"}, status=204)
    pair.same("GET", "sys/mounts/m4", status=200)
    pair.same("DELETE", "sys/mounts/m4", status=204)


def test_a_local_mount_says_so(pair: Pair) -> None:
    pair.same("POST", "sys/mounts/m5", {"type": "kv", "local": True, "seal_wrap": True}, status=204)
    assert pair.same("GET", "sys/mounts/m5", status=200).body["data"]["local"] is True
    pair.same("DELETE", "sys/mounts/m5", status=204)


def test_an_auth_method_is_enabled_tuned_and_disabled(pair: Pair) -> None:
    pair.same("POST", "sys/auth/m6", {"type": "userpass", "description": "users"}, status=204)
    pair.same("GET", "sys/auth/m6", status=200)
    pair.same("POST", "sys/auth/m6", {"type": "userpass"}, status=400)
    tune = {"token_type": "batch", "user_lockout_config": {"lockout_threshold": 3}}
    pair.same("POST", "sys/auth/m6/tune", tune, status=204)
    pair.same("GET", "sys/auth/m6/tune", status=200)
    pair.same("POST", "sys/auth/m6/tune", {"token_type": "zzz"}, status=400)
    pair.same("DELETE", "sys/auth/m6", status=204)
    pair.same("GET", "sys/auth/m6", status=400)
    pair.same("DELETE", "sys/auth/m6", status=204)


def test_a_remounted_engine_keeps_its_data_and_accessor(pair: Pair) -> None:
    pair.same("POST", "sys/mounts/m7", {"type": "kv"}, status=204)
    pair.same("POST", "m7/key", {"a": "b"}, status=204)
    before = pair.ours.request("GET", "sys/mounts/m7").body["data"]["accessor"]
    # OpenBao queues the move, ours has made it when it answers: another warning.
    pair.same("POST", "sys/remount", {"from": "m7", "to": "m8"}, status=200, ignore={"warnings"})
    assert pair.ours.request("GET", "m8/key").body["data"] == {"a": "b"}
    assert pair.ours.request("GET", "sys/mounts/m8").body["data"]["accessor"] == before
    pair.same("POST", "sys/remount", {"from": "nope", "to": "m9"}, status=400)
    pair.same("POST", "sys/remount", {"from": "sys", "to": "m9"}, status=400)
    pair.same("GET", "sys/remount/status/unknown", status=404)
    pair.both("DELETE", "sys/mounts/m8")


def test_moving_between_secrets_and_logins_is_refused(pair: Pair) -> None:
    pair.same("POST", "sys/auth/m10", {"type": "userpass"}, status=204)
    pair.same("POST", "sys/remount", {"from": "auth/m10", "to": "m11"}, status=400)
    pair.same("DELETE", "sys/auth/m10", status=204)


def test_verbs_that_a_mount_does_not_have(pair: Pair) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    pair.same("PATCH", "sys/mounts/m12", {}, headers=headers, status=405)


def test_the_preflight_of_the_kv_commands(pair: Pair) -> None:
    pair.same("POST", "sys/mounts/m13", {"type": "kv-v2"}, status=204)
    pair.same("GET", "sys/internal/ui/mounts/m13/some/key", status=200)
    pair.same("GET", "sys/internal/ui/mounts/unknown/key", status=403)
    pair.same("GET", "sys/internal/ui/mounts/m13/key", token="", status=403)
    pair.same("DELETE", "sys/mounts/m13", status=204)
