"""Build the real template with the real ``sam`` and deploy it on the emulator."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from boto3.dynamodb.types import TypeDeserializer
from botocore.config import Config

from tests.support.emulator import PROGRAM, REPOSITORY
from tests.support.guard import guarded

if TYPE_CHECKING:
    from tests.simulator import SimulatorServer

REGION = "us-east-1"
STACK = "stream-downloads"
# Replaces all settings that this machine has for AWS.
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
REQUIREMENTS = REPOSITORY / "layers/stream_downloads/requirements.txt"
# Made by `make`: the layer's packages, and the requirements that they satisfy.
WHEELS = REPOSITORY / ".venv/wheels"
# Names a directory, in the environment of tests that build the same: the first builds, each copies.
SHARED_BUILD = "STREAM_DOWNLOADS_SHARED_BUILD"
# The part of the layer that functions import. The emulator's Python compiles it beforehand, because
# no bytecode outlives a cold start. The rest is left as it is: every cold start unpacks the layer.
IMPORTED = (
    "aws_lambda_powertools/logging",
    "aws_lambda_powertools/metrics",
    "aws_lambda_powertools/shared",
    "aws_lambda_powertools/utilities/parameters",
    "jmespath",
    "stream_downloads",
    "typing_extensions.py",
    "urllib3",
)
# What the emulator cannot deploy.
NOT_EMULATED: dict[str, str] = {"SavedQueries": "false"}

_value = TypeDeserializer().deserialize


@dataclass(frozen=True, slots=True)
class Stack:
    """Reaches a deployed stack.

    Attributes:
        endpoint: the address of the AWS on which it is deployed.
        outputs: the template's outputs, by name.
    """

    endpoint: str
    outputs: Mapping[str, str]

    @property
    def webhook_url(self) -> str:
        """Return ``WebhookUrl`` with the emulator's address in place of AWS's."""
        identifier = self.outputs["WebhookUrl"].removeprefix("https://").partition(".")[0]
        return f"{self.endpoint}/_aws/lambda-url/{identifier}/"

    def physical_id(self, logical_id: str) -> str:
        """Return the physical id of a resource of the template."""
        answer = self.client("cloudformation").describe_stack_resource(
            StackName=STACK, LogicalResourceId=logical_id
        )
        name: str = answer["StackResourceDetail"]["PhysicalResourceId"]
        return name

    def log(self, function: str) -> list[dict[str, Any]]:
        """Return the log of a function, by its name in the template, such as ``PollDownloads``.

        Metrics and the lines of Lambda itself are left out; the oldest line is first.
        """
        pages = (
            self.client("logs")
            .get_paginator("filter_log_events")
            .paginate(logGroupName=self.physical_id(f"{function}LogGroup"))
        )
        messages = (event["message"] for page in pages for event in page["events"])
        lines = [json.loads(message) for message in messages if message.startswith("{")]
        return [line for line in lines if "message" in line]

    def rows(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return every row of the downloads table, by its key."""
        pages = self.client("dynamodb").get_paginator("scan")
        items = [
            unmarshalled(item)
            for page in pages.paginate(TableName=self.outputs["DownloadsTableName"])
            for item in page["Items"]
        ]
        return {(item["video_uid"], item["download_type"]): item for item in items}

    def client(self, service: str) -> Any:
        """Return a boto3 client for that service, at the stack's endpoint."""
        return client(service, self.endpoint)

    def invoke(self, output: str, payload: Mapping[str, Any]) -> Any:
        """Invoke a function and wait for its answer.

        Args:
            output: the output that names the function, such as ``PollDownloadsFunctionName``.
            payload: its event.

        Raises:
            AssertionError: the function failed; the text has its error.
        """
        return self.invoke_as(output, payload)[0]

    def invoke_as(self, output: str, payload: Mapping[str, Any]) -> tuple[Any, str]:
        """Do as :meth:`invoke`; return also the request's id, which is in the function's log."""
        answer = self.client("lambda").invoke(
            FunctionName=self.outputs[output], Payload=json.dumps(payload).encode()
        )
        content = json.loads(answer["Payload"].read())
        if "FunctionError" in answer:
            raise AssertionError(f"{output}: {content}")
        return content, answer["ResponseMetadata"]["RequestId"]


def unmarshalled(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item without DynamoDB's types."""
    return {name: _value(typed) for name, typed in item.items()}


@cache
def client(service: str, endpoint: str) -> Any:
    """Return a boto3 client for a service of the emulator at ``endpoint``.

    It uses neither a profile nor a proxy of this machine.
    """
    nothing = (None, None, None, None)
    files = dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
    own = botocore.session.Session({"profile": nothing, **files})
    return boto3.Session(botocore_session=own).client(
        service,  # type: ignore[call-overload]  # any service
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(
            connect_timeout=5, read_timeout=120, retries={"total_max_attempts": 1}, proxies={}
        ),
    )


def build(directory: Path) -> Path:
    """Build the functions and the layer, from the packages that ``make`` keeps if they fit.

    Args:
        directory: where to; made if it is missing.

    Returns:
        The built template.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if SHARED_BUILD in os.environ:
        shared = Path(os.environ[SHARED_BUILD])
        with (shared / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / "build/template.yaml").exists():
                _build(shared)
        shutil.copytree(shared / "build", directory / "build")
    else:
        _build(directory)
    return directory / "build/template.yaml"


def _build(directory: Path) -> None:
    _sam(
        "build",
        *("--template-file", str(REPOSITORY / "template.yaml")),
        *("--build-dir", str(directory / "build")),
        directory=directory,
    )
    compile_all = ("-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash")
    library = directory / "build/StreamDownloadsLayer/python"
    packages = [str((library / name).resolve(strict=True)) for name in IMPORTED]
    _run([str(PROGRAM.with_name("python")), *compile_all, *packages], environment())


def deploy_for(
    server: SimulatorServer,
    endpoint: str,
    template: Path,
    parameters: Mapping[str, str] = MappingProxyType({}),
    secret: Mapping[str, str] | None = None,
) -> Stack:
    """Create the secret with the credentials for a Cloudflare, and deploy a stack that uses it.

    Args:
        server: the simulated Cloudflare.
        endpoint: the emulator's address.
        template: what :func:`build` returned.
        parameters: the template's other parameters by name.
        secret: the credentials as their owner stores them; the API token if None.
    """
    account = server.simulator.settings
    stored = client("secretsmanager", endpoint).create_secret(
        Name="cloudflare", SecretString=json.dumps(secret or {"api_token": account.api_token})
    )
    own = {
        "CloudflareAccountId": account.account_id,
        "CloudflareApiBaseUrl": server.base_url,
        "CloudflareSecretArn": stored["ARN"],
    }
    stack = deploy(endpoint, template, own | dict(parameters))
    # A name that is known on AWS alone.
    server.addresses[stack.outputs["WebhookUrl"]] = stack.webhook_url
    return stack


def deploy(endpoint: str, template: Path, parameters: dict[str, str]) -> Stack:
    """Deploy a built template to the AWS at ``endpoint``, or update what is deployed there.

    Args:
        endpoint: the emulator's address.
        template: what :func:`build` returned.
        parameters: the template's parameters by name; those left out have their defaults.
    """
    _sam(
        *("deploy", "--resolve-s3", "--no-confirm-changeset"),
        *("--template-file", str(template)),
        *("--stack-name", STACK),
        *("--capabilities", "CAPABILITY_IAM"),
        "--parameter-overrides",
        *(f"{name}={value}" for name, value in (NOT_EMULATED | parameters).items()),
        directory=template.parents[1],
        endpoint=endpoint,
    )
    return deployed_at(endpoint)


def deployed_at(endpoint: str) -> Stack:
    """Return the stack that is deployed on the AWS at ``endpoint``."""
    (stack,) = client("cloudformation", endpoint).describe_stacks(StackName=STACK)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    return Stack(endpoint, outputs)


def environment(endpoint: str | None = None) -> dict[str, str]:
    """Return this process's environment for a program that calls AWS at ``endpoint``.

    It has none of this machine's settings for AWS, and no proxy.
    """
    mine = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # Some programs read the one, some the other.
    for name in ("NO_PROXY", "no_proxy"):
        mine[name] = ",".join(filter(None, ["127.0.0.1", os.environ.get(name)]))
    return mine | SETTINGS | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})


def _sam(*arguments: str, directory: Path, endpoint: str | None = None) -> None:
    """Run ``sam``, which keeps its own files in ``directory``.

    Raises:
        RuntimeError: it failed; the text has its output.
    """
    tools, own = Path(sys.executable).parent, directory / "sam"
    own.mkdir(exist_ok=True)
    # Without this file `sam` asks PyPI for a later version, and waits for the answer.
    checked = json.dumps({"lastVersionCheck": time.time()})
    (own / "metadata.json").write_text(checked, encoding="utf-8")
    variables = environment(endpoint) | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "SAM_CLI_POLL_DELAY": "1",
        "SAM_CLI_TELEMETRY": "0",
        "TMPDIR": str(directory),
        "__SAM_CLI_APP_DIR": str(own),
    }
    kept = WHEELS / REQUIREMENTS.name
    if kept.exists() and kept.read_bytes() == REQUIREMENTS.read_bytes():
        variables |= {"PIP_FIND_LINKS": str(WHEELS), "PIP_NO_INDEX": "1"}
    _run([str(tools / "sam"), *arguments], variables)


def _run(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run a command until it ends.

    Raises:
        RuntimeError: it failed; the text has its output.
    """
    with guarded(command, environment=variables, output=subprocess.PIPE) as process:
        written = process.stdout.read().decode(errors="replace") if process.stdout else ""
    if process.returncode:
        program, action, *_ = command
        raise RuntimeError(f"{Path(program).name} {action} failed:\n{written}")
