"""Check what ``DownloadsReadPolicyArn`` permits, where IAM is enforced."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.support.deployment import REGION
from tests.support.events import VIDEO_UID

if TYPE_CHECKING:
    from tests.e2e.deployed import Deployed

KEY = {"video_uid": {"S": VIDEO_UID}, "download_type": {"S": "default"}}


def query(client: Any, table: str, attribute: str, index: str | None = None) -> None:
    client.query(
        TableName=table,
        KeyConditionExpression="#key = :value",
        ExpressionAttributeNames={"#key": attribute},
        ExpressionAttributeValues={":value": {"S": "ready"}},
        **({"IndexName": index} if index else {}),
    )


# PartiQL is missing: the emulator asks for an action that AWS does not have.
ALLOWED: dict[str, Callable[[Any, str], object]] = {
    "one item": lambda client, table: client.get_item(TableName=table, Key=KEY),
    "several items": lambda client, table: client.batch_get_item(
        RequestItems={table: {"Keys": [KEY]}}
    ),
    "the items of a video": lambda client, table: query(client, table, "video_uid"),
    "the items of a status": lambda client, table: query(client, table, "status", "status-index"),
}
DENIED: dict[str, Callable[[Any, str], object]] = {
    "the service's own index": lambda client, table: query(client, table, "_queue", "work-index"),
    "everything": lambda client, table: client.scan(TableName=table),
    "a write": lambda client, table: client.put_item(TableName=table, Item=KEY),
    "a delete": lambda client, table: client.delete_item(TableName=table, Key=KEY),
}


@pytest.fixture(scope="module")
def reader(guarded_stack: Deployed) -> Any:
    """Return a DynamoDB client of a user who has this policy alone."""
    iam = guarded_stack.stack.client("iam")
    iam.create_user(UserName="reader")
    iam.attach_user_policy(
        UserName="reader", PolicyArn=guarded_stack.stack.outputs["DownloadsReadPolicyArn"]
    )
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    return boto3.client(
        "dynamodb",
        endpoint_url=guarded_stack.stack.endpoint,
        region_name=REGION,
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
    )


@pytest.mark.parametrize("read", ALLOWED.values(), ids=ALLOWED.keys())
def test_a_consumer_may_read(
    guarded: Deployed, reader: Any, read: Callable[[Any, str], object]
) -> None:
    read(reader, guarded.stack.outputs["DownloadsTableName"])


@pytest.mark.parametrize("other", DENIED.values(), ids=DENIED.keys())
def test_a_consumer_may_do_nothing_else(
    guarded: Deployed, reader: Any, other: Callable[[Any, str], object]
) -> None:
    with pytest.raises(reader.exceptions.ClientError, match="AccessDenied"):
        other(reader, guarded.stack.outputs["DownloadsTableName"])
