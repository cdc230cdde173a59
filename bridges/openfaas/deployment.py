"""Translates a function into OpenFaaS's FunctionDeployment."""

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bridges import environment
from bridges.annotations import DIGEST, FABRIC
from bridges.errors import PlatformFailed
from bridges.openfaas.responses import NAME
from broker.messages.function import Function

SECRETS_AT: Final = "/var/openfaas/secrets"

READY_PATH: Final = "/healthz"
"""Value of `ready_path`. Without it a watchdog says that it is ready while the function's process still imports."""

SLACK_S: Final = 5
"""Added to a watchdog's own timeouts, so that it can still send a response when `exec_timeout` is over; seconds."""

_PASSWORD: Final = "password"  # noqa: S105 (a part of secrets' names)
_KEY: Final = "key"


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Allowed keys of `Function.options`; they are fields of OpenFaaS's FunctionDeployment.

    Attributes:
        namespace: namespace of the function; empty for the bridge's own.
        constraints: rules that choose the node.
        labels: labels of the function.
        limits: resource limits besides the memory.
        requests: resource requests.
    """

    namespace: str = ""
    constraints: list[str] = []
    labels: dict[str, str] = {}
    limits: dict[str, str] = {}
    requests: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A function in OpenFaaS's terms.

    Attributes:
        service: name of the function.
        namespace: namespace of the function.
        annotations: annotations, with those that mark the function as ours.
        secrets: name in the bridge's `SecretStore` of each mounted secret, by the name that the platform stores it
            under.
        body: the complete FunctionDeployment.
    """

    service: str
    namespace: str
    annotations: dict[str, str]
    secrets: dict[str, str]
    body: dict[str, Any]


def deployment(function: Function, namespace: str, platform: str) -> Deployment:
    """Return the deployment of a function.

    Args:
        function: the function as it should be.
        namespace: namespace to use if the function's options name none.
        platform: name of the platform, for errors.

    Raises:
        PlatformFailed: the function has no image, or its name or options are not valid for OpenFaaS.
    """
    purpose = f"create {function.name}"
    options = _options(function, platform)
    if not NAME.fullmatch(function.name) or "." in function.name:
        raise PlatformFailed(platform, purpose, "that is no function's name")
    if not function.image:
        raise PlatformFailed(platform, purpose, "it has no `image`, and OpenFaaS runs nothing else")
    roles = {_PASSWORD: function.password, _KEY: function.key}
    secrets = {_secret_name(function.name, role): secret for role, secret in roles.items() if secret}
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
        "envVars": _environment(function),
        "constraints": options.constraints,
        "secrets": sorted(secrets),
        "labels": options.labels,
        "annotations": annotations,
        "limits": {"memory": f"{function.memory_mb}Mi"} | options.limits,
        "requests": options.requests,
    }
    return Deployment(function.name, options.namespace or namespace, annotations, secrets, body)


def own_secrets(function: str, mounted: list[str]) -> list[str]:
    """Return those of a function's secrets that were created for it.

    Args:
        function: name of the function.
        mounted: names of all secrets that the function has.
    """
    return [name for name in mounted if name in (_secret_name(function, _PASSWORD), _secret_name(function, _KEY))]


def _options(function: Function, platform: str) -> Options:
    try:
        return msgspec.convert(function.options, Options)
    except msgspec.ValidationError as exc:
        raise PlatformFailed(platform, f"create {function.name}", f"its options: {exc}") from exc


def _secret_name(function: str, role: str) -> str:
    # Each function has secrets of its own, so that deleting one function cannot break another.
    return f"fedkeeper-{function}-{role}"


def _environment(function: Function) -> dict[str, str]:
    longer = f"{function.timeout_s + SLACK_S}s"
    timeouts = {
        "exec_timeout": f"{function.timeout_s}s",
        "read_timeout": longer,
        "write_timeout": longer,
        "ready_path": READY_PATH,
    }
    files = {role: f"{SECRETS_AT}/{_secret_name(function.name, role)}" for role in (_PASSWORD, _KEY)}
    return timeouts | environment.with_secret_files(function, password_file=files[_PASSWORD], key_file=files[_KEY])
