"""The `fcs` command as a person runs it."""

import os
import subprocess
import sys

import pytest


def run_fcs(cache, *arguments, **environment):
    """Run `fcs` with the cache folder `cache`."""
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "FCS_CACHE_DIR": str(cache), "COLUMNS": "160", **environment},
    )


@pytest.fixture
def fcs(tmp_path):
    """Run `fcs` with a cache of its own."""

    def run(*arguments):
        return run_fcs(tmp_path / "cache", *arguments)

    return run
