"""`make demo` shows replication at work and leaves nothing behind."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path


def test_the_demo_runs_to_its_summary_and_leaves_nothing_behind() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("VAULT_", "DEMO_"))}
    before = set(Path(tempfile.gettempdir()).glob("undercroft-demo-*"))
    run = subprocess.run(
        [sys.executable, "-m", "undercroft", "demo"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "in quarantine: secret/" in run.stdout
    assert "lost in silence    0" in run.stdout
    assert set(Path(tempfile.gettempdir()).glob("undercroft-demo-*")) <= before
