"""For end-to-end tests: the real template, built once and deployed on an emulator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.deployment import Stack, build, client, deploy
from tests.emulator import Emulator, emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCOUNT_ID = "023e105f4ecef8ad9ca31a8372d0c353"
API_TOKEN = "an-api-token"


@pytest.fixture(scope="session")
def plain_emulator() -> Iterator[Emulator]:
    """An emulator that lets everyone do everything."""
    with emulator() as running:
        yield running


@pytest.fixture(scope="session")
def built_template(plain_emulator: Emulator) -> Path:
    """What ``sam build`` makes of the template."""
    return build(plain_emulator.directory)


@pytest.fixture(scope="session")
def stack(plain_emulator: Emulator, built_template: Path) -> Stack:
    """The stack, deployed."""
    return _deployed(plain_emulator, built_template)


@pytest.fixture(scope="session")
def guarded_stack(built_template: Path) -> Iterator[Stack]:
    """The stack, deployed where a function may do only what its role allows."""
    with emulator(enforce_iam=True) as running:
        yield _deployed(running, built_template)


def _deployed(running: Emulator, template: Path) -> Stack:
    secret = client("secretsmanager", running.url).create_secret(
        Name="cloudflare", SecretString=json.dumps({"api_token": API_TOKEN})
    )
    return deploy(
        running.url,
        template,
        {
            "CloudflareAccountId": ACCOUNT_ID,
            "CloudflareSecretArn": secret["ARN"],
            "DownloadTypes": "default,audio",
        },
    )
