"""Compares the requirements.txt of the user's code with what is installed."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from client_fn.errors import BadCode

_COMMENT: Final = re.compile(r"(^|\s)#.*$")
"""As pip reads it: https://pip.pypa.io/en/stable/reference/requirements-file-format/."""

_REFERENCE: Final = re.compile(r"-[rce]|--(requirement|constraint|editable)\b")

_OPTION: Final = re.compile(r"\s--?[a-z][\w-]*[= ].*$")
"""Options at the end of a line, such as --hash."""


def missing(requirements: str, installed: Mapping[str, str], python: str = "") -> list[str]:
    """Return what is missing, such as `scikit-image>=0.24 (0.22 is installed)`. Extras are not checked.

    Args:
        requirements: text of a requirements.txt. Lines with options of pip, such as `-r`, don't count.
        installed: version of each installed distribution, by its name.
        python: the version of the Python that the markers apply to, such as 3.10.4; empty: this one's.

    Raises:
        BadCode: a line is no requirement.
    """
    versions = {canonicalize_name(name): version for name, version in installed.items()}
    environment = {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])} if python else {}
    found: list[str] = []
    for requirement in parse(requirements):
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        version = versions.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(f"{requirement.name}{requirement.specifier} (not installed)")
        elif not _is_contained(requirement, version):
            found.append(f"{requirement.name}{requirement.specifier} ({version} is installed)")
    return found


def parse(requirements: str) -> list[Requirement]:
    """Return the requirements in the text of a requirements.txt, without pip's options.

    Raises:
        BadCode: a line is no requirement.
    """
    return [_requirement(line) for line in lines(requirements) if not line.startswith("-")]


def for_archive(requirements: str) -> str:
    """Return the lines that a function's archive adds to its own requirements: without comments, with pip's options.

    Raises:
        BadCode: a line is no requirement, or refers to another file, which pip would not find from there.
    """
    for line in lines(requirements):
        if _REFERENCE.match(line):
            raise BadCode("requirements.txt", f"{line!r} refers to another file; write its lines here instead")
    parse(requirements)
    return "".join(f"{line}\n" for line in lines(requirements))


def lines(requirements: str) -> Iterator[str]:
    """Yield the lines of a requirements.txt that say something: continued lines joined, comments removed."""
    for line in re.sub(r"\\\r?\n", " ", requirements).splitlines():
        if text := _COMMENT.sub("", line).strip():
            yield text


def _requirement(line: str) -> Requirement:
    try:
        return Requirement(_OPTION.sub("", line))
    except InvalidRequirement as exc:
        reason = str(exc).splitlines()[0]
        raise BadCode("requirements.txt", f"{line!r}: {reason}; write NAME>=VERSION, or NAME @ URL") from exc


def _is_contained(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return not requirement.specifier
