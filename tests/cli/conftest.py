"""The `fcs` command as a person runs it."""

import pytest

from tests import launch


def run_fcs(cache, *arguments, **environment):
    """Run `fcs` with the cache folder `cache`."""
    return launch.fcs(*arguments, FCS_CACHE_DIR=str(cache), COLUMNS="160", **environment)


@pytest.fixture
def fcs(tmp_path):
    """Run `fcs` with a cache of its own."""

    def run(*arguments):
        return run_fcs(tmp_path / "cache", *arguments)

    return run
