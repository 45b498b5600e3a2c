"""Reaches a deployed stack as its operator does: outputs, the user's secret, table, functions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stream_downloads.adapters.secrets import ApiCredentials, SecretUnavailable
from tests.smoke.failure import Failed
from tests.support.deployment import unmarshalled

LIMITS: Final = Config(connect_timeout=5, read_timeout=65, retries={"total_max_attempts": 2})


class Stack(Protocol):
    """The parts of a stack that the smoke test needs; `DeployedStack` has them."""

    def rows(self, uid: str) -> list[Mapping[str, Any]]:
        """Return the rows of a video."""

    def manage(self, **payload: Any) -> Any:
        """Return the answer of ManageDownloads."""

    def reconcile(self) -> None:
        """Start ReconcileLibrary."""


@dataclass(frozen=True, slots=True)
class DeployedStack:
    """A stack in the user's account.

    Attributes:
        outputs: its outputs, by name.
        parameters: its parameters, by name.
    """

    session: boto3.Session
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]

    @classmethod
    def named(cls, name: str) -> DeployedStack:
        """Read a stack, in the region and with the credentials that the AWS CLI would use.

        Raises:
            Failed: it cannot be read.
        """
        with explained(f"The stack {name} cannot be read"):
            # Unlike the AWS CLI, boto3 does not know AWS_REGION.
            session = boto3.Session(region_name=os.environ.get("AWS_REGION"))
            formation = session.client("cloudformation", config=LIMITS)
            (stack,) = formation.describe_stacks(StackName=name)["Stacks"]
        outputs = {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}
        parameters = {
            each["ParameterKey"]: each["ParameterValue"] for each in stack.get("Parameters", [])
        }
        if "ManageDownloadsFunctionName" not in outputs:
            raise Failed(f"The stack {name} is no stream-downloads, or was not deployed to its end")
        return cls(session, outputs, parameters)

    def authorization(self) -> Mapping[str, str]:
        """Return the headers with the user's own credentials.

        Raises:
            Failed: the secret cannot be read, or not be used.
        """
        arn = self.parameters["CloudflareSecretArn"]
        secrets = self.session.client(
            "secretsmanager", region_name=arn.split(":")[3], config=LIMITS
        )
        try:
            return ApiCredentials(secrets, arn).headers()
        except SecretUnavailable as error:
            raise Failed(f"The credentials for Cloudflare: {error}") from None

    def rows(self, uid: str) -> list[Mapping[str, Any]]:
        """Return the rows of a video."""
        with explained("The downloads table cannot be read"):
            answer = self.session.client("dynamodb", config=LIMITS).query(
                TableName=self.outputs["DownloadsTableName"],
                KeyConditionExpression="video_uid = :uid",
                ExpressionAttributeValues={":uid": {"S": uid}},
                ConsistentRead=True,
            )
        return [unmarshalled(item) for item in answer["Items"]]

    def manage(self, **payload: Any) -> Any:
        """Return the answer of ManageDownloads."""
        with explained("ManageDownloads cannot be invoked"):
            answer = self.session.client("lambda", config=LIMITS).invoke(
                FunctionName=self.outputs["ManageDownloadsFunctionName"],
                Payload=json.dumps(payload).encode(),
            )
            content = json.loads(answer["Payload"].read())
        if answer.get("FunctionError"):
            raise Failed(f"ManageDownloads failed: {content.get('errorMessage', content)}")
        return content

    def reconcile(self) -> None:
        """Start ReconcileLibrary: in a large library it takes minutes."""
        with explained("ReconcileLibrary cannot be invoked"):
            self.session.client("lambda", config=LIMITS).invoke(
                FunctionName=self.outputs["ReconcileLibraryFunctionName"],
                InvocationType="Event",
                Payload=b"{}",
            )


@contextmanager
def explained(problem: str) -> Iterator[None]:
    """Turn what boto3 raises into a sentence."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise Failed(f"{problem}: {error}") from None
