"""The provider behind an OpenFaaS gateway: faas-netes (Kubernetes) or faasd, with the limits of Community Edition."""

import asyncio
import base64
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp

from emulators.openfaas.watchdog import Response, Watchdog

NAMESPACE: Final = "openfaas-fn"
SECRETS_AT: Final = "/var/openfaas/secrets"
LIMIT: Final = 15
REPLICAS: Final = 5

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class Refused(Exception):
    """Raised when the provider refuses a request.

    Attributes:
        response: the response to send.
    """

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text)
        self.response = Response(status, text.encode(), {"Content-Type": "text/plain"})


@dataclass
class Deployed:
    """A deployed function.

    Attributes:
        spec: the last FunctionDeployment.
        watchdog: the container.
        available_s: time when the replicas become available, on the monotonic clock; seconds.
        invocations: number of calls.
        replicas: number of replicas. One container stands for all of them.
    """

    spec: dict[str, Any]
    watchdog: Watchdog
    available_s: float
    invocations: int = 0
    replicas: int = 1

    @property
    def is_available(self) -> bool:
        """Whether the replicas are ready."""
        return time.monotonic() >= self.available_s

    def status(self) -> dict[str, Any]:
        """Return the FunctionStatus, without zeros."""
        fields = {key: value for key, value in self.spec.items() if key not in ("service", "envProcess")}
        counts = {"invocationCount": self.invocations, "replicas": self.replicas}
        available = {"availableReplicas": self.replicas if self.is_available else 0}
        positive = {key: value for key, value in (counts | available).items() if value}
        return {"name": self.spec["service"], **fields, **positive}


@dataclass
class Provider:
    """Stores functions and secrets, and runs the functions.

    Attributes:
        kind: provider whose behaviour to copy.
        images: folder with the function's code, by name of the image.
        folder: folder for secrets and logs.
        http: client that calls the functions.
        available_after_s: time until a new container is available, in seconds.
        cold_s: additional time until a function's process listens, in seconds.
        limit: limit of the number of functions.
        lost_updates: number of further updates that get a 200 and change nothing (faas-netes only logs its error).
        functions: deployed functions, by name.
        secrets: values of the secrets, by name.
    """

    kind: Literal["faas-netes", "faasd"]
    images: dict[str, Path]
    folder: Path
    http: aiohttp.ClientSession
    available_after_s: float = 0.0
    cold_s: float = 0.0
    limit: int = LIMIT
    lost_updates: int = 0
    functions: dict[str, Deployed] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)

    @property
    def done(self) -> Response:
        """The response to a request that succeeded."""
        return Response(200 if self.kind == "faasd" else 202)

    async def deploy(self, spec: dict[str, Any]) -> Response:
        """Handle `POST /system/functions`.

        Raises:
            Refused: the specification is not valid, the function exists, or there are too many functions.
        """
        self._check(spec)
        name = spec["service"]
        if name in self.functions and self.kind == "faas-netes":
            raise Refused(500, f'unable create Deployment: deployments.apps "{name}" already exists')
        if len(self.functions.keys() | {name}) > self.limit:
            raise Refused(400, f"maximum number of functions reached for OpenFaaS CE ({self.limit})")
        await self._run(spec)
        return self.done

    async def update(self, spec: dict[str, Any]) -> Response:
        """Handle `PUT /system/functions`: stop the old process, then start the new one.

        Raises:
            Refused: the function does not exist, or the specification is not valid.
        """
        deployed = self._get(spec.get("service", ""))
        if self.lost_updates:
            self.lost_updates -= 1
            return Response(200)
        self._check(spec)
        await deployed.watchdog.stop()
        await self._run(spec)
        return self.done

    async def delete(self, request: dict[str, Any], namespace: str) -> Response:
        """Handle `DELETE /system/functions`. faas-netes reads the namespace from the query, faasd from the body.

        Args:
            request: body of the request.
            namespace: namespace in the query; empty if there is none.

        Raises:
            Refused: the function does not exist.
        """
        requested = namespace if self.kind == "faas-netes" else request.get("namespace", "")
        if requested not in ("", NAMESPACE):
            raise Refused(404)
        name = request.get("functionName", "")
        await self._get(name).watchdog.stop()
        del self.functions[name]
        return self.done

    def scale(self, name: str, replicas: int) -> Response:
        """Handle `POST /system/scale-function/NAME`. faasd always has one replica.

        Args:
            name: name of the function.
            replicas: number of replicas, within the gateway's limits.

        Raises:
            Refused: the function does not exist.
        """
        deployed = self.functions.get(name)
        if deployed is None:
            raise Refused(404 if self.kind == "faasd" else 500, f"unable to get function {name}")
        deployed.replicas = 1 if self.kind == "faasd" else replicas
        return Response(202)

    def status(self, name: str) -> dict[str, Any]:
        """Handle `GET /system/function/NAME`.

        Raises:
            Refused: the function does not exist.
        """
        return self._get(name).status()

    async def change_secret(self, method: str, request: dict[str, Any]) -> Response:
        """Handle a change of `/system/secrets`. The API never shows a value.

        Args:
            method: `POST` to create, `PUT` to update, `DELETE` to delete.
            request: body of the request.

        Raises:
            Refused: the secret exists already or does not exist, or faasd is asked for an update.
        """
        name = request.get("name", "")
        raw = request.get("rawValue")
        value = base64.b64decode(raw) if raw else request.get("value", "").encode()
        match method:
            case "POST" if name in self.secrets:
                status = 400 if self.kind == "faasd" else 409
                raise Refused(status, f'secrets "{name}" already exists')
            case "PUT" if self.kind == "faasd":
                raise Refused(400, "faasd doesn't support secret updates")
            case "PUT" | "DELETE" if name not in self.secrets:
                raise Refused(404, f'secrets "{name}" not found')
            case "DELETE":
                del self.secrets[name]
            case _:
                self.secrets[name] = value
        return self.done

    async def close(self) -> None:
        """Stop every process."""
        await asyncio.gather(*(deployed.watchdog.stop() for deployed in self.functions.values()))

    def _get(self, name: str) -> Deployed:
        deployed = self.functions.get(name)
        if deployed is None:
            raise Refused(404)
        return deployed

    def _check(self, spec: dict[str, Any]) -> None:
        name, annotations = str(spec.get("service", "")), spec.get("annotations") or {}
        if not _NAME.fullmatch(name):
            raise Refused(400, f"service: {name} is invalid")
        if spec.get("image") not in self.images:
            raise Refused(400, "the Community Edition license agreement only allows public images")
        if spec.get("namespace", NAMESPACE) not in ("", NAMESPACE):
            raise Refused(400, "namespace not allowed in OpenFaaS CE")
        if (spec.get("labels") or {}).get("com.openfaas.scale.zero") == "true":
            raise Refused(400, "com.openfaas.scale.zero not available for Community Edition")
        if self.kind == "faas-netes" and "," in annotations.get("topic", ""):
            raise Refused(400, "the topic annotation may only contain one value in OpenFaaS CE")
        for secret in spec.get("secrets") or []:
            if secret not in self.secrets:
                raise Refused(400, f'secrets "{secret}" not found')

    async def _run(self, spec: dict[str, Any]) -> None:
        name, previous = spec["service"], self.functions.get(spec["service"])
        if previous is not None:
            await previous.watchdog.stop()
        code, log = self.images[spec["image"]], self.folder / f"{name}.log"
        watchdog = Watchdog(code, self._environment(spec), self.http, log, cold_s=self.cold_s)
        await watchdog.start()
        spec = {"namespace": NAMESPACE, **spec}
        self.functions[name] = Deployed(spec, watchdog, time.monotonic() + self.available_after_s)

    def _environment(self, spec: dict[str, Any]) -> dict[str, str]:
        """Return the environment of a container, and write its secrets to a folder that stands for SECRETS_AT."""
        mount = self.folder / spec["service"]
        mount.mkdir(exist_ok=True)
        for secret in spec.get("secrets") or []:
            (mount / secret).write_bytes(self.secrets[secret])
        env = {"PATH": os.defpath, "HOME": str(mount), "HOSTNAME": spec["service"], **(spec.get("envVars") or {})}
        return {key: value.replace(SECRETS_AT, str(mount)) for key, value in env.items()}
