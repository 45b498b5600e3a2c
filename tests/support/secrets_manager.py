"""Keep secrets in memory: the two calls of Secrets Manager that the service makes."""

from __future__ import annotations

import json
from typing import Any

from botocore.exceptions import ClientError


class SecretsManager:
    """Secrets by ARN, each with its current and its previous version.

    Attributes:
        versions: for each secret its versions by label.
        ids: for each secret the ids of its versions, the current one last.
        reads: the labels that were read, in order.
        failures: the error that reading a label raises; writing fails with that of ``AWSCURRENT``.
    """

    def __init__(self) -> None:
        self.versions: dict[str, dict[str, str | bytes]] = {}
        self.ids: dict[str, list[str]] = {}
        self.reads: list[str] = []
        self.failures: dict[str, Exception] = {}

    def store(
        self, arn: str, value: str | bytes | dict[str, Any], version_id: str | None = None
    ) -> None:
        """Make a value current (an object as JSON), and what was current previous."""
        ids = self.ids.setdefault(arn, [])
        ids.append(version_id or f"version-{len(ids)}")
        versions = self.versions.setdefault(arn, {})
        if "AWSCURRENT" in versions:
            versions["AWSPREVIOUS"] = versions["AWSCURRENT"]
        versions["AWSCURRENT"] = json.dumps(value) if isinstance(value, dict) else value

    def fail(self, error: Exception | None) -> None:
        """Let every call fail with that error, or none any more."""
        self.failures = {label: error for label in ("AWSCURRENT", "AWSPREVIOUS") if error}

    def get_secret_value(self, **request: str) -> dict[str, Any]:
        """Read one version, as boto3's client does."""
        label = request.get("VersionStage", "AWSCURRENT")
        self.reads.append(label)
        if label in self.failures:
            raise self.failures[label]
        versions = self.versions.get(request["SecretId"], {})
        if label not in versions:
            raise refusal("ResourceNotFoundException")
        value = versions[label]
        kind = "SecretString" if isinstance(value, str) else "SecretBinary"
        return {kind: value, "VersionId": self.ids[request["SecretId"]][-1]}

    def put_secret_value(self, **request: str) -> None:
        """Store a new version, as boto3's client does."""
        if "AWSCURRENT" in self.failures:
            raise self.failures["AWSCURRENT"]
        arn, version_id = request["SecretId"], request["ClientRequestToken"]
        if version_id not in self.ids.get(arn, []):
            self.store(arn, request["SecretString"], version_id)


def refusal(code: str) -> ClientError:
    """Return the error that boto3 raises when AWS refuses a call with that code."""
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "GetSecretValue")
