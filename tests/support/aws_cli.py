"""Replaces version 2 of the AWS CLI: `python -m tests.support.aws_cli SERVICE OPERATION ...`.

It has the operations and options of botocore's models, so that a command of a document fails if it
has an unknown option. It lacks the CLI's own commands, such as ``aws s3 cp``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jmespath  # type: ignore[import-untyped]
from botocore import xform_name
from botocore.session import Session

if TYPE_CHECKING:
    from botocore.model import Shape

# The CLI's own options, with their defaults.
GLOBAL: Final = {
    "query": "",
    "output": "json",
    "cli-binary-format": "base64",
    "cli-read-timeout": "60",
}
SESSION: Final = Session()


class BadCommand(ValueError):
    """The CLI would refuse the command."""


@dataclass(slots=True)
class Command:
    """A command of the CLI.

    Attributes:
        service: as botocore names it.
        operation: as a method of a boto3 client.
        parameters: the arguments of that method.
        settings: the options of `GLOBAL`.
        outfile: the file for a streamed answer, if the command names one.
    """

    service: str
    operation: str
    parameters: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=lambda: dict(GLOBAL))
    outfile: str | None = None


def run(arguments: Sequence[str], client_of: Callable[[str], Any]) -> str:
    """Run one command; return what the CLI prints.

    Args:
        arguments: those after ``aws``.
        client_of: returns botocore's or boto3's client of a service.

    Raises:
        BadCommand: as :func:`parsed`.
        ClientError: AWS refused the call.
    """
    command = parsed(arguments)
    client = client_of(command.service)
    if client.can_paginate(command.operation):
        pages = client.get_paginator(command.operation).paginate(**command.parameters)
        answer = pages.build_full_result()
    else:
        answer = getattr(client, command.operation)(**command.parameters)
    answer.pop("ResponseMetadata", None)
    if command.outfile:
        Path(command.outfile).write_bytes(answer.pop("Payload").read())
    if query := command.settings["query"]:
        answer = jmespath.search(query, answer)
    if command.settings["output"] == "text":
        return "".join(f"{line}\n" for line in as_text(answer))
    return "" if answer in (None, {}) else json.dumps(answer, indent=4, default=str) + "\n"


def parsed(arguments: Sequence[str]) -> Command:
    """Read a command.

    Args:
        arguments: those after ``aws``.

    Raises:
        BadCommand: the CLI has no such operation or option, or lacks one.
    """
    service, action, *rest = arguments
    inputs, outfile = operation(service, action)
    command = Command(service, action.replace("-", "_"))
    values: dict[str, list[str]] = {}
    given: list[str] = []
    for argument in rest:
        if argument.startswith("--"):
            given = values.setdefault(argument[2:], [])
        else:
            given.append(argument)
    if outfile:  # the one argument without an option, the last
        command.outfile = given.pop()
    for name, said in values.items():
        if name in GLOBAL:
            (command.settings[name],) = said
        elif name in inputs:
            member, shape = inputs[name]
            command.parameters[member] = value(shape, said)
        else:
            raise BadCommand(f"aws {service} {action} has no --{name}")
    if query := command.settings["query"]:
        jmespath.compile(query)
    return command


@cache
def operation(service: str, action: str) -> tuple[Mapping[str, tuple[str, Shape]], bool]:
    """Return the options of an operation with their shapes, and whether it writes to a file."""
    model = SESSION.get_service_model(service)
    names = {xform_name(name, "-"): name for name in model.operation_names}
    if action not in names:
        raise BadCommand(f"aws {service} has no {action}")
    found = model.operation_model(names[action])
    members: Mapping[str, Shape] = found.input_shape.members if found.input_shape else {}
    inputs = {xform_name(name, "-"): (name, shape) for name, shape in members.items()}
    return inputs, bool(found.has_streaming_output)


def value(shape: Shape, said: Sequence[str]) -> Any:
    """Return the value of an option, as boto3 accepts it."""
    kind, is_json = shape.type_name, said[:1] and said[0][:1] in ("[", "{")
    if kind == "boolean":
        return True
    if kind == "list" and not is_json:
        return [shorthand(item) if "=" in item else item for item in said]
    (text,) = said
    if kind in ("list", "structure", "map"):
        return json.loads(text) if is_json else shorthand(text)
    return int(text) if kind in ("integer", "long") else text


def shorthand(text: str) -> dict[str, str]:
    """Read ``Id=queue,Arn=...``."""
    return dict(pair.split("=", 1) for pair in text.split(","))


def as_text(answer: Any) -> list[str]:
    """Return the lines of ``--output text``, for lists and scalars."""
    if not isinstance(answer, list):
        return [str(answer)]
    if any(isinstance(item, list) for item in answer):
        return [line for item in answer for line in as_text(item)]
    return ["\t".join(str(item) for item in answer)]


if __name__ == "__main__":
    sys.stdout.write(run(sys.argv[1:], SESSION.create_client))
