"""A function as OpenFaaS wants to be told of it."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bridges import environment
from bridges.annotations import DIGEST, FABRIC
from bridges.errors import PlatformFailed
from bridges.openfaas.answers import NAME
from broker.messages.function import Function

SECRETS_AT: Final = "/var/openfaas/secrets"

READY_PATH: Final = "/healthz"
"""Without `ready_path` a watchdog is ready while the function's process is still importing."""

_PASSWORD: Final = "password"  # noqa: S105 (a part of secrets' names)
_KEY: Final = "key"

SLACK_S: Final = 5
"""A watchdog must be able to say that `exec_timeout` is over before its own connection times out."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `Function.options` may hold for this platform: fields of OpenFaaS's FunctionDeployment.

    Attributes:
        namespace: another than the bridge's own.
        limits: besides the memory.
    """

    namespace: str = ""
    constraints: list[str] = []
    labels: dict[str, str] = {}
    limits: dict[str, str] = {}
    requests: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is sent.

    Attributes:
        service: the function's name.
        namespace: where it is made.
        annotations: among them, how we know it again.
        sources: the names of our secrets, by the names that the platform keeps them under.
        body: all of it, in OpenFaaS's own terms.
    """

    service: str
    namespace: str
    annotations: dict[str, str]
    sources: dict[str, str]
    body: dict[str, Any]

    @property
    def ready_path(self) -> str:
        """What answers as soon as the function's process listens."""
        return READY_PATH


def deployment(function: Function, namespace: str, platform: str) -> Deployment:
    """What to send for a function.

    Args:
        function: as it should be.
        namespace: where it goes if its options name no other.
        platform: what errors call it.

    Raises:
        PlatformFailed: it has no image, or a name or options that OpenFaaS does not know.
    """
    options = _options(function, platform)
    if not NAME.fullmatch(function.name) or "." in function.name:
        raise PlatformFailed(platform, f"create {function.name}", "that is no function's name")
    if not function.image:
        raise PlatformFailed(platform, f"create {function.name}", "it has no `image`, and OpenFaaS runs nothing else")
    sources = _sources(function)
    annotations = {
        FABRIC: function.fabric,
        DIGEST: function.digest,
        "com.openfaas.health.http.path": "/_/health",
        "com.openfaas.ready.http.path": "/_/ready",
    }
    body = {
        "service": function.name,
        "image": function.image,
        "namespace": options.namespace or namespace,
        "envVars": _timeouts(function) | _environment(function),
        "constraints": options.constraints,
        "secrets": sorted(sources),
        "labels": options.labels,
        "annotations": annotations,
        "limits": {"memory": f"{function.memory_mb}Mi"} | options.limits,
        "requests": options.requests,
    }
    return Deployment(function.name, options.namespace or namespace, annotations, sources, body)


def secret_names(function: str, mounted: list[str]) -> list[str]:
    """Those of a function's secrets that were made for it."""
    return [name for name in mounted if name in (_secret(function, _PASSWORD), _secret(function, _KEY))]


def _options(function: Function, platform: str) -> Options:
    try:
        return msgspec.convert(function.options, Options)
    except msgspec.ValidationError as exc:
        raise PlatformFailed(platform, f"create {function.name}", f"its options: {exc}") from exc


def _secret(function: str, role: str) -> str:
    """A name of its own for each function, so that deleting one takes nothing from another."""
    return f"fedkeeper-{function}-{role}"


def _sources(function: Function) -> dict[str, str]:
    named = {_PASSWORD: function.password, _KEY: function.key}
    return {_secret(function.name, role): source for role, source in named.items() if source}


def _timeouts(function: Function) -> dict[str, str]:
    longer = f"{function.timeout_s + SLACK_S}s"
    return {
        "exec_timeout": f"{function.timeout_s}s",
        "read_timeout": longer,
        "write_timeout": longer,
        "ready_path": READY_PATH,
    }


def _environment(function: Function) -> dict[str, str]:
    files = {role: f"{SECRETS_AT}/{_secret(function.name, role)}" for role in (_PASSWORD, _KEY)}
    return environment.with_secret_files(function, password_file=files[_PASSWORD], key_file=files[_KEY])
