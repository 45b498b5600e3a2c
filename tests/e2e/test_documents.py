"""Every command of the documents runs on the deployed stack, as it is written.

A small stand-in takes the place of the AWS CLI, which PyPI does not have. It runs in this process,
because a new one takes half a second. With ``AWS_CLI=/path/to/aws`` the real one runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from tests.e2e.deployed import ACCOUNT, Deployed
from tests.support import aws_cli
from tests.support.deployment import REGION
from tests.support.documents import DOCUMENTS, block, blocks
from tests.support.emulator import REPOSITORY
from tests.support.http_server import http_server

if TYPE_CHECKING:
    from tests.support.deployment import Stack

# What the blocks do not run with that begin so, and why.
BY_HAND: Final = {
    "AWS_CLI": "it runs these tests",
    "aws cloudformation deploy": "a command of the CLI's own; the emulator has no OIDC",
    "aws s3": "a command of the CLI's own; test_packaging.py deploys the packaged template",
    "cp": "it changes the working tree",
    "export": "test_readme_shell.py runs it",
    "git": "it changes the working tree",
    "make": "test_demo.py, test_deploy.py and test_packaging.py run what the targets run",
    "output() {": "it comes before every other block",
    "sam logs": "it takes four seconds and shows nothing on the emulator",
}
# A block that begins so is run by the test of its page, with what that needs.
RECIPE: Final = "# recipe: "
# Each once: the documents share some.
COMMANDS: Final = {
    code: document
    for document in DOCUMENTS
    for code in blocks(document)
    if not code.startswith((*BY_HAND, RECIPE))
}
SECRET: Final = "cloudflare-api"
QUEUE: Final = "watched"
TABLE: Final = "noted-beforehand"


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell with the README's functions, for one stack.

    Attributes:
        environment: its whole environment.
        placeholders: what a reader puts in place of each.
    """

    environment: Mapping[str, str]
    placeholders: Mapping[str, str]

    def run(self, document: str, code: str) -> str:
        """Run a block of a document; return what it prints.

        Variables that an earlier block of the document sets are set before.
        """
        used = re.findall(r"\$([A-Z]+)\b", code)
        before = [
            earlier
            for earlier in blocks(document)
            if earlier != code and earlier.startswith(tuple(f"{name}=$(" for name in used))
        ]
        script = "\n".join(["set -e", block("README.md", "sh", "invoke() ("), *before, code])
        for placeholder, meant in self.placeholders.items():
            script = script.replace(placeholder, meant)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            check=False,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == 0, f"{code}{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def uid(plain_stack: Deployed) -> str:
    """Return a private video with a download that is ready, and one to delete."""
    uid = plain_stack.upload_and_hear(private=True)
    plain_stack.manage("request", uid, download_types=["audio"])
    plain_stack.poll_until("ready", uid)
    return uid


@pytest.fixture(scope="module")
def aws_command(plain_stack: Deployed) -> Iterator[str]:
    """Yield the line of a script that runs its arguments as a command of the AWS CLI."""
    if real := os.environ.get("AWS_CLI"):
        yield f'exec {real} --endpoint-url {plain_stack.stack.endpoint} "$@"'
        return
    if shutil.which("curl") is None:
        pytest.skip("curl is missing")

    def run(_headers: Mapping[str, str], body: bytes) -> str:
        *arguments, _ = body.decode().split("\0")  # each is followed by one
        return aws_cli.run(arguments, plain_stack.stack.client)

    with http_server(run) as url:
        yield f"printf '%s\\0' \"$@\" | curl -q -sS --data-binary @- {url}"


@pytest.fixture(scope="module")
def shell(
    plain_stack: Deployed, aws_command: str, uid: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    """Yield a shell in which ``aws`` means the emulator and Cloudflare the simulator."""
    stack = plain_stack.stack
    folder = tmp_path_factory.mktemp("bin")
    aws = folder / "aws"
    aws.write_text(f"#!/bin/sh\n{aws_command}\n")
    aws.chmod(0o755)
    queue = stack.client("sqs").create_queue(QueueName=QUEUE)["QueueUrl"]
    attributes = stack.client("sqs").get_queue_attributes(
        QueueUrl=queue, AttributeNames=["QueueArn"]
    )
    yield Shell(
        environment={
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": stack.endpoint,
            "AWS_PAGER": "",
            "AWS_SECRET_ACCESS_KEY": "test",
            "NO_PROXY": "127.0.0.1",
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(folder),
        },
        placeholders={
            "<ARN of an SQS queue that takes events.amazonaws.com>": attributes["Attributes"][
                "QueueArn"
            ],
            "<account id>": ACCOUNT.account_id,
            "<table>": TABLE,
            "<token>": ACCOUNT.api_token,
            "<uid>": uid,
            "<your token>": ACCOUNT.api_token,
            "https://api.cloudflare.com/client/v4": plain_stack.server.base_url,
        },
    )
    stack.client("sqs").delete_queue(QueueUrl=queue)


@pytest.fixture
def shown(plain: Deployed, shell: Shell, document: str, code: str) -> Iterator[str]:
    """Yield the output of a block, run on what it expects to find."""
    prepare(plain.stack, code)
    yield shell.run(document, code)
    if "--request DELETE" in code:
        plain.register(force=True)
        plain.restart("ReceiveWebhook")


def prepare(stack: Stack, code: str) -> None:
    """Make the secret and the table that a block takes for granted."""
    secrets = stack.client("secretsmanager")
    if SECRET in code:
        names = [secret["Name"] for secret in secrets.list_secrets()["SecretList"]]
        if SECRET in names:
            secrets.delete_secret(SecretId=SECRET, ForceDeleteWithoutRecovery=True)
        if "create-secret" not in code:
            secrets.create_secret(Name=SECRET, SecretString="{}")
        if "restore-secret" in code:
            secrets.delete_secret(SecretId=SECRET)
    if "<table>" in code:
        stack.client("dynamodb").create_table(
            TableName=TABLE,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
        )


def named(value: str) -> str:
    """Return the first line of a block, as the name of its test."""
    return re.sub(r"[^\w.-]+", " ", value.partition("\n")[0])[:70].strip()


@pytest.mark.parametrize(("code", "document"), COMMANDS.items(), ids=named)
@pytest.mark.usefixtures("shown")
def test_a_command_of_the_documents_runs() -> None:
    """Use the fixture, which has run it without an error."""


@pytest.mark.parametrize("document", ["README.md"])
@pytest.mark.parametrize("code", blocks("README.md", containing="get-item"), ids=named)
def test_the_readme_reads_one_url(plain: Deployed, shown: str, uid: str) -> None:
    assert json.loads(shown) == {"status": "ready", "url": plain.row(uid)["url"]}


@pytest.mark.parametrize("document", ["docs/reference.md"])
@pytest.mark.parametrize(
    "code", blocks("docs/reference.md", containing="WHERE video_uid"), ids=named
)
def test_partiql_gives_the_downloads_of_a_video(plain: Deployed, shown: str, uid: str) -> None:
    assert plain.row(uid)["url"] in shown


@pytest.mark.parametrize("document", ["docs/reference.md"])
@pytest.mark.parametrize("code", blocks("docs/reference.md", containing=":since"), ids=named)
def test_the_query_gives_what_became_ready(plain: Deployed, shown: str, uid: str) -> None:
    row = plain.row(uid)
    assert f"{row['updated_at']}\t{row['url']}" in shown.splitlines()


@pytest.mark.parametrize("reason", BY_HAND)
def test_nothing_is_left_out_in_vain(reason: str) -> None:
    assert any(code.startswith(reason) for document in DOCUMENTS for code in blocks(document))
