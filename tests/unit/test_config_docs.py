"""The documentation is as new as the code: settings, commands, flags, the sample file."""

import re
from pathlib import Path

import pytest

from undercroft.cli.commands import COMMANDS
from undercroft.config import load
from undercroft.config.reference import fill, tables

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "docs" / "configuration.md"
CLI = (ROOT / "docs" / "cli.md").read_text()


def test_the_tables_of_settings_are_the_codes() -> None:
    """After a change: python -m undercroft.config.reference docs/configuration.md"""
    text = CONFIGURATION.read_text()
    assert set(re.findall(r"<!-- table:([\w-]+) -->", text)) == set(tables())
    assert text == fill(text)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_and_flag_is_documented(name: str) -> None:
    command = next(command for command in COMMANDS if command.name == name)
    assert f"| `undercroft {name}` | {command.summary} |" in CLI
    for flag in command.flags:
        assert re.search(rf"`-{flag.name}[=`]", CLI), f"-{flag.name} of {name}"
        for variable in flag.variables:
            assert f"`{variable}`" in CLI


def test_no_flag_is_documented_that_is_not_there() -> None:
    known = {name for c in COMMANDS for f in c.flags for name in (f.name, *f.other)} | {
        "h",
        "switch",
        "name",
    }
    assert set(re.findall(r"`-([a-z][\w-]*)[=`]", CLI)) <= known


def test_the_sample_configuration_has_no_mistake(tmp_path: Path) -> None:
    text = (ROOT / "contrib" / "config" / "undercroft.hcl").read_text()
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    sample = tmp_path / "sample.hcl"
    sample.write_text(text.replace("/etc/undercroft/tls", str(tmp_path)))
    loaded = load([str(sample)], environment={})
    assert loaded.warnings == ()
    assert loaded.settings.cluster_name == "north"


def test_every_line_of_the_sample_that_is_commented_out_is_a_setting_too(tmp_path: Path) -> None:
    text = (ROOT / "contrib" / "config" / "undercroft.hcl").read_text()
    lines = []
    for line in text.splitlines():
        code = re.sub(r"^(\s*)# ", r"\1", line)
        lines.append(code if re.search(r"[={}]|^\s*}$", code) else line)
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    (tmp_path / "seal.key").write_text("00" * 32)
    sample = tmp_path / "sample.hcl"
    whole = "\n".join(lines).replace("/etc/undercroft/tls", str(tmp_path))
    sample.write_text(whole.replace("/etc/undercroft/seal.key", str(tmp_path / "seal.key")))
    settings = load([str(sample)], environment={}).settings
    assert settings.seal.type == "static"
    assert settings.listeners[0].x_forwarded_for_authorized_addrs == ("10.0.0.0/8",)
    assert settings.listeners[0].telemetry.unauthenticated_metrics_access
