"""Reads a unit as systemd does, so that a board's bridge can be started by its own unit where systemd does not run."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a unit's section [Service] says.

    Attributes:
        command: `ExecStart=`, with its specifiers and without its variables replaced.
        environment: `Environment=`.
        environment_files: `EnvironmentFile=`; a leading `-` means that the file may be missing.
        credentials: `LoadCredential=`: the path of each credential, by its name.
        state: the folder of `StateDirectory=`; empty: none.
        is_dynamic: whether it runs as a user that systemd makes up (`DynamicUser=`).
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_files: tuple[str, ...] = ()
    credentials: Mapping[str, str] = field(default_factory=dict)
    state: str = ""
    is_dynamic: bool = False


def read(*texts: str, host: str) -> Service:
    """Return what a unit and its drop-ins say together.

    Args:
        texts: the unit's file, then those of its drop-ins in their order.
        host: the machine's short name, for the specifier %l.
    """
    lists: dict[str, list[str]] = {}
    for key, value in _assignments(texts):
        replaced = _specifiers(value, host)
        # An empty value forgets all former ones (systemd.service(5)).
        lists[key] = [*lists.get(key, []), replaced] if replaced else []
    state = lists.get("StateDirectory", [""])[-1]
    return Service(
        command=tuple(shlex.split(lists["ExecStart"][-1])),
        environment=dict(_pair(word) for value in lists.get("Environment", []) for word in shlex.split(value)),
        environment_files=tuple(lists.get("EnvironmentFile", [])),
        credentials=dict(_pair(value, ":") for value in lists.get("LoadCredential", [])),
        state=f"/var/lib/{state}" if state else "",
        is_dynamic=lists.get("DynamicUser", [""])[-1] in {"yes", "true", "1", "on"},
    )


def read_environment(text: str) -> dict[str, str]:
    """Return the variables of an environment file (systemd.exec(5))."""
    lines = [line.strip() for line in text.splitlines()]
    return dict(_pair(line) for line in lines if line and line[0] not in "#;")


def expand(command: tuple[str, ...], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return a command with the variables of its `${NAME}` replaced; an unknown one is empty.

    Args:
        command: program and arguments.
        environment: variables by name.
    """
    return tuple(re.sub(r"\$\{(\w+)\}", lambda match: environment.get(match[1], ""), word) for word in command)


def _assignments(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        section = ""
        for line in text.replace("\\\n", " ").splitlines():
            if match := re.fullmatch(r"\[(\w+)\]", line.strip()):
                section = match[1]
            elif section == "Service" and (match := re.fullmatch(r"(\w+)\s*=\s*(.*?)\s*", line)):
                found.append((match[1], match[2]))
    return found


def _specifiers(text: str, host: str) -> str:
    values = {"S": "/var/lib", "l": host, "%": "%"}
    return re.sub(r"%([Sl%])", lambda match: values[match[1]], text)


def _pair(text: str, separator: str = "=") -> tuple[str, str]:
    name, _, value = text.partition(separator)
    return name, value
