"""Give every test the functions' environment, measure its coverage faster, and end in order."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
from typing import Any

import moto.core.models  # noqa: F401 - what moto stands in for are the clients made after this
import pytest
from botocore.client import BaseClient, ClientCreator

from tests.support.leaks import pytest_runtest_makereport
from tests.support.template import environment

__all__ = ["pytest_runtest_makereport"]  # a hook: no test may let a secret be shown

# A CI job that is cancelled ends like one that is interrupted: fixtures take down what they began.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# A shell lets what it runs in the background ignore this one, and its children would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Handlers read their settings when they are imported, as on Lambda; nothing of this machine's own
# account may reach them.
for _name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[_name]
os.environ |= environment() | {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Stop the first of two measurements that pytest-cov 7.1 begins in a process of pytest-xdist.

    Two double the time of the tests, and the marker ``no_cover`` stops only the second.
    """
    plugin = session.config.pluginmanager.getplugin("_cov")
    if hasattr(session.config, "workerinput") and plugin and plugin.cov_controller:
        plugin.cov_controller.cov.stop()


def _untraced(call: Any) -> Any:
    """Return the call, made without the trace function that coverage runs at every line."""

    @functools.wraps(call)
    def untraced(*args: Any, **kwargs: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return call(*args, **kwargs)
        finally:
            sys.settrace(tracer)
            _call()

    return untraced


def _call() -> None:
    """Let coverage's trace function begin, which it does with the next call of a function."""


# None of their lines is measured, and boto3 with moto takes twice as long with a trace function.
for _owner, _name in ((BaseClient, "_make_api_call"), (ClientCreator, "create_client")):
    setattr(_owner, _name, _untraced(getattr(_owner, _name)))


def pytest_collection_finish() -> None:
    """Exclude the modules that are loaded by now from garbage collection: it takes less time."""
    gc.freeze()
