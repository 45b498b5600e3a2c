"""Uploads the built code to S3 and writes ``packaged.json``, a plain CloudFormation template.

SAM's transform is applied: CDK's CfnInclude does not find the resources that it adds, and other
tools need not support it. ``make package`` runs this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import boto3
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]
from samtranslator.translator.transform import transform  # type: ignore[import-untyped]

ROOT = Path(__file__).parent


class _NoManagedPolicies:
    """Replaces a list of AWS's managed policies, because SAM has its own."""

    def load(self) -> dict[str, str]:
        """Return no policy."""
        return {}


def main(bucket: str, built: Path, packaged: Path) -> None:
    """Upload the code and write the template for the region of ``AWS_DEFAULT_REGION``.

    Args:
        bucket: an S3 bucket in that region; Lambda takes code from no other.
        built: the template that ``sam build`` wrote.
        packaged: the file to write.

    Raises:
        subprocess.CalledProcessError: ``sam package`` failed; its output says why.
    """
    if boto3.Session().region_name is None:
        sys.exit("There is no region: export AWS_DEFAULT_REGION=...")
    with tempfile.TemporaryDirectory() as directory:
        uploaded = Path(directory) / "template.yaml"
        command = ["sam", "package", "--template-file", str(built), "--s3-bucket", bucket]
        command += ["--s3-prefix", "stream-downloads", "--output-template-file", str(uploaded)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        template = yaml_parse(uploaded.read_text(encoding="utf-8"))
    parameters = {
        name: str(parameter.get("Default", name))
        for name, parameter in template["Parameters"].items()
    }
    text = json.dumps(processed(template, parameters), indent=1)
    packaged.write_text(text, encoding="utf-8")


def processed(template: dict[str, Any], parameters: dict[str, str]) -> dict[str, Any]:
    """Return a template after SAM's transform; the parameters stay parameters.

    The region of boto3's session decides the partition of AWS's own ARNs.

    Args:
        template: a template whose code is in S3; it is changed in place.
        parameters: a value for each parameter, with which SAM decides what to add.
    """
    return cast("dict[str, Any]", transform(template, parameters, _NoManagedPolicies()))


if __name__ == "__main__":
    main(sys.argv[1], ROOT / ".aws-sam/build/template.yaml", ROOT / "packaged.json")
