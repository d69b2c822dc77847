"""Killed runs end as untouched ones: a part of ``make faults``, in processes of their own."""

import pathlib
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits_and_rows():
    program = pathlib.Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, program, "--chains=1", "--out="],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^5/5 kills survived", done.stdout, re.MULTILINE)
