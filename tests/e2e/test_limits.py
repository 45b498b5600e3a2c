"""Check where IAM is enforced what the policy of all roles denies, to a user who may do the rest.

The emulator does not know which stream a request reads: what the role of AnnounceDownloads denies
has its test on the template.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.deployment import REGION

if TYPE_CHECKING:
    from tests.e2e.deployed import Deployed

USER: Final = "limited"
EVERYTHING: Final = {"Effect": "Allow", "Action": "*", "Resource": "*"}


def test_no_role_creates_a_log_group(guarded: Deployed) -> None:
    iam = guarded.stack.client("iam")
    iam.create_user(UserName=USER)
    document = {"Version": "2012-10-17", "Statement": [EVERYTHING]}
    iam.put_user_policy(UserName=USER, PolicyName="everything", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName=USER)["AccessKey"]
    logs: Any = boto3.client(
        "logs",
        endpoint_url=guarded.stack.endpoint,
        region_name=REGION,
        aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"],
    )
    logs.create_log_group(logGroupName="/aws/lambda/before")
    limits = guarded.stack.physical_id("FunctionLimits")
    iam.attach_user_policy(UserName=USER, PolicyArn=limits)
    logs.describe_log_groups()
    with pytest.raises(ClientError, match="AccessDenied"):
        logs.create_log_group(logGroupName="/aws/lambda/after")
