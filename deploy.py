"""Deploys the built template, with the template's defaults for what ``samconfig.toml`` leaves out.

CloudFormation keeps the value that a parameter has in a stack, so that the defaults of a later
version would not reach it. ``make deploy`` runs this file.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomlkit
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STACK = "stream-downloads"
ROOT = Path(__file__).parent
# What the template needs whatever samconfig.toml says.
ALWAYS = ["--capabilities", "CAPABILITY_IAM", "--no-fail-on-empty-changeset"]


def main(arguments: Sequence[str]) -> int:
    """Deploy, and return the exit code of ``sam deploy``.

    Args:
        arguments: passed on to ``sam deploy``. With ``--guided``, or without ``samconfig.toml``,
            SAM asks for all settings, and those that are defaults are forgotten afterwards.
    """
    environment = option(arguments, "--config-env") or "default"
    config = ROOT / "samconfig.toml"
    defaults = defaults_of(yaml_parse((ROOT / "template.yaml").read_text(encoding="utf-8")))
    saved = saved_in(config, environment)
    if "--guided" in arguments or saved is None:
        name = [] if saved and "stack_name" in saved else ["--stack-name", STACK]
        asked = [] if "--guided" in arguments else ["--guided"]
        given = [] if option(arguments, "--stack-name") else name
        code = sam_deploy([*asked, *given, *arguments])
        forget_defaults(config, environment, defaults)
        return code
    if option(arguments, "--parameter-overrides"):
        return sam_deploy([*ALWAYS, *arguments])
    values = defaults | parsed(saved.get("parameter_overrides", ""))
    return sam_deploy([*ALWAYS, "--parameter-overrides", *written(values), *arguments])


def sam_deploy(arguments: Sequence[str]) -> int:
    """Run ``sam deploy`` and return its exit code."""
    command = ["sam", "deploy", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603  # the user's own


def option(arguments: Sequence[str], name: str) -> str | None:
    """Return the value after an option, None without it."""
    for before, value in pairwise(arguments):
        if before == name:
            return value
    return None


def defaults_of(template: Mapping[str, Any]) -> dict[str, str]:
    """Return the template's parameters that have a default, with it."""
    return {
        name: str(parameter["Default"])
        for name, parameter in template["Parameters"].items()
        if "Default" in parameter
    }


def saved_in(config: Path, environment: str) -> dict[str, Any] | None:
    """Return what ``samconfig.toml`` says of ``sam deploy``, None if it says nothing."""
    if not config.exists():
        return None
    sections = tomlkit.parse(config.read_text(encoding="utf-8")).unwrap()
    saved: dict[str, Any] | None = sections.get(environment, {}).get("deploy", {}).get("parameters")
    return saved


def parsed(overrides: str | Sequence[str]) -> dict[str, str]:
    """Return the parameters that ``parameter_overrides`` sets, by name."""
    pairs = shlex.split(overrides) if isinstance(overrides, str) else overrides
    return dict(pair.split("=", 1) for pair in pairs)


def written(values: Mapping[str, str]) -> list[str]:
    """Return parameters as ``sam deploy`` takes them."""
    return [f'{name}="{value}"' for name, value in values.items()]


def forget_defaults(config: Path, environment: str, defaults: Mapping[str, str]) -> None:
    """Remove from ``samconfig.toml`` the parameters that have their default.

    ``sam deploy --guided`` saves every answer.
    """
    if not saved_in(config, environment):
        return
    document = tomlkit.parse(config.read_text(encoding="utf-8"))
    parameters: Any = document[environment]["deploy"]["parameters"]
    chosen = {
        name: value
        for name, value in parsed(parameters.get("parameter_overrides", "")).items()
        if defaults.get(name) != value
    }
    parameters["parameter_overrides"] = " ".join(written(chosen))
    config.write_text(tomlkit.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
