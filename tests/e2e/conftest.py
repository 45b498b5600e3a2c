"""Build the real template once and deploy it on two emulators, for the end-to-end tests.

The plain stack lives where everything is allowed to everyone, the guarded one where a function may
do only what its role allows. Between them they have a value for every parameter of the template.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from botocore.exceptions import BotoCoreError
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.e2e.deployed import ACCOUNT, ALARM_TOPIC, Deployed, deployed_on
from tests.support.deployment import REGION, SHARED_BUILD, build
from tests.support.emulator import Emulator, emulator
from tests.support.leaks import leak_in

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

BY_KEY = {"api_email": ACCOUNT.api_email, "api_key": ACCOUNT.api_key}


class ByDeployment(LoadScopeScheduling):  # type: ignore[misc]  # it is untyped
    """Keeps what shares a deployment in one process, when there are several.

    What needs no deployment comes last, one test at a time, where a process has nothing to do: the
    scopes with the most tests come first.
    """

    def _split_scope(self, nodeid: str) -> str:
        if "tests/e2e/" not in nodeid:
            return nodeid
        if "test_demo.py" in nodeid:
            return "demo"
        if "test_documents.py" in nodeid or "test_smoke.py" in nodeid:
            return "plain stack for programs"
        return "guarded stack" if "[guarded" in nodeid else "plain stack"


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByDeployment:
    """Have pytest-xdist go by deployment (https://pytest-xdist.readthedocs.io)."""
    return ByDeployment(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Have all processes, and the programs that they start, share one build."""
    if SHARED_BUILD not in os.environ:
        directory = os.environ[SHARED_BUILD] = tempfile.mkdtemp(prefix="stream-downloads-build-")
        config.add_cleanup(partial(shutil.rmtree, directory))


@pytest.fixture(scope="session")
def plain_emulator() -> Iterator[Emulator]:
    """Yield an emulator that allows every call."""
    with emulator() as running:
        yield running


@pytest.fixture(scope="session")
def built_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the template that ``sam build`` wrote."""
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def plain_stack(plain_emulator: Emulator, built_template: Path) -> Iterator[Deployed]:
    """Yield the stack, subscribed at its Cloudflare: one download a video, kept for good."""
    parameters = {"PollWindowSeconds": "0"}
    with deployed_on(plain_emulator, built_template, parameters) as deployed:
        yield deployed
        shows_no_secret(deployed)


@pytest.fixture(scope="session")
def guarded_stack(built_template: Path) -> Iterator[Deployed]:
    """Yield a stack with IAM enforced: both downloads of a video, kept for a day."""
    parameters = {
        "AlarmTopicArn": ALARM_TOPIC,
        "CloudflareRequestLimit": "1000",
        "CloudflareSecretKmsKeyArn": f"arn:aws:kms:{REGION}:000000000000:key/{uuid4()}",
        "DownloadTypes": "default,audio",
        "PollWindowSeconds": "1",
        "ReconcileLookbackHours": "24",
        "ReconcileMinutes": "1440",
        "RetentionDays": "1",
        "SnapStart": "PublishedVersions",
        "Tracing": "Active",
        "VideoEvents": "true",
        "WebhookConcurrency": "20",
    }
    with (
        emulator(enforce_iam=True) as running,
        deployed_on(running, built_template, parameters, BY_KEY) as deployed,
    ):
        yield deployed
        shows_no_secret(deployed)


def shows_no_secret(deployed: Deployed) -> None:
    """Fail if a secret is in any line that was logged, or in any row, in the life of a stack."""
    lines = [*deployed.log_lines(), json.dumps([*deployed.stack.rows().values()], default=str)]
    assert len(lines) > 5, "a stack that was used has logged something"
    shown = "\n".join(lines)
    assert deployed.first_secret not in shown, f"the stack at {deployed.stack.endpoint} shows it"
    assert leak_in(shown) is None, f"the stack at {deployed.stack.endpoint} shows it"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test the warnings and errors that the functions logged meanwhile."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Deployed):
                title = f"WARNING and ERROR lines of the functions ({name} stack)"
                try:
                    lines = value.warnings(since=call.start)
                except BotoCoreError as error:  # a stack that is being taken down
                    lines = [f"cannot be read: {error}"]
                report.sections.append((title, "\n".join(lines) or "none"))
    return report


def with_its_whole_allowance(request: pytest.FixtureRequest) -> Deployed:
    """Return the requested stack as if it had sent no request for five minutes."""
    deployed: Deployed = request.getfixturevalue(f"{request.param}_stack")
    deployed.pass_five_minutes()
    return deployed


# The parameter is in the test's name, by which tests are divided among processes.
plain = pytest.fixture(with_its_whole_allowance, params=["plain"], name="plain")
guarded = pytest.fixture(with_its_whole_allowance, params=["guarded"], name="guarded")
either = pytest.fixture(with_its_whole_allowance, params=["plain", "guarded"], name="either")
