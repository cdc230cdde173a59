"""What is behind an OpenFaaS gateway: faas-netes (Kubernetes) or faasd, with the limits and the quirks of their CE."""

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
    """Raised for a request that the provider answers with an error."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text)
        self.response = Response(status, text.encode(), {"Content-Type": "text/plain"})


@dataclass
class Deployed:
    """A function that is there.

    Attributes:
        spec: as it was deployed, or as it was updated.
        watchdog: its container.
        available_s: when its replica becomes available, by the monotonic clock.
        invocations: how often it was called.
        replicas: how many there should be; one container stands for all of them.
    """

    spec: dict[str, Any]
    watchdog: Watchdog
    available_s: float
    invocations: int = 0
    replicas: int = 1

    @property
    def is_available(self) -> bool:
        """Whether its replicas are ready."""
        return time.monotonic() >= self.available_s

    def status(self) -> dict[str, Any]:
        """The FunctionStatus; what is zero is left out."""
        shown = {key: value for key, value in self.spec.items() if key not in ("service", "envProcess")}
        counts = {"invocationCount": self.invocations, "replicas": self.replicas}
        available = {"availableReplicas": self.replicas if self.is_available else 0}
        counted = {key: value for key, value in (counts | available).items() if value}
        return {"name": self.spec["service"], **shown, **counted}


@dataclass
class Provider:
    """Functions and secrets.

    Attributes:
        kind: whose statuses and quirks.
        images: for each image, the folder with the code of the function that it holds.
        folder: for secrets and logs.
        http: to call functions with.
        available_after_s: how long a new container takes until it is available.
        cold_s: how much longer than it needs a function's process takes to listen.
        limit: how many functions there may be.
        lost_updates: so many more updates are answered with 200 and not done (faas-netes logs its error).
        functions: what there is, by name.
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
        """The answer to what was done."""
        return Response(200 if self.kind == "faasd" else 202)

    async def deploy(self, spec: dict[str, Any]) -> Response:
        """POST /system/functions."""
        self._check(spec)
        name = spec["service"]
        if name in self.functions and self.kind == "faas-netes":
            raise Refused(500, f'unable create Deployment: deployments.apps "{name}" already exists')
        if len(self.functions.keys() | {name}) > self.limit:
            raise Refused(400, f"maximum number of functions reached for OpenFaaS CE ({self.limit})")
        await self._run(spec)
        return self.done

    async def update(self, spec: dict[str, Any]) -> Response:
        """PUT /system/functions: the new process takes the place of the old one, which is ended first."""
        found = self._found(spec.get("service", ""))
        if self.lost_updates:
            self.lost_updates -= 1
            return Response(200)
        self._check(spec)
        await found.watchdog.stop()
        await self._run(spec)
        return self.done

    async def delete(self, request: dict[str, Any], namespace: str) -> Response:
        """faas-netes reads the namespace from the query, faasd from the body; both default to their own."""
        given = namespace if self.kind == "faas-netes" else request.get("namespace", "")
        if given not in ("", NAMESPACE):
            raise Refused(404)
        name = request.get("functionName", "")
        await self._found(name).watchdog.stop()
        del self.functions[name]
        return self.done

    def scale(self, name: str, replicas: int) -> Response:
        """The gateway has clamped the number; faasd has one replica, whatever it is told."""
        found = self.functions.get(name)
        if found is None:
            raise Refused(404 if self.kind == "faasd" else 500, f"unable to get function {name}")
        found.replicas = 1 if self.kind == "faasd" else replicas
        return Response(202)

    def status(self, name: str) -> dict[str, Any]:
        """GET /system/function/NAME."""
        return self._found(name).status()

    async def keep_secret(self, method: str, request: dict[str, Any]) -> Response:
        """POST, PUT or DELETE /system/secrets; a value is never shown."""
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
        """End every process."""
        await asyncio.gather(*(deployed.watchdog.stop() for deployed in self.functions.values()))

    def _found(self, name: str) -> Deployed:
        found = self.functions.get(name)
        if found is None:
            raise Refused(404)
        return found

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
        name, before = spec["service"], self.functions.get(spec["service"])
        if before is not None:
            await before.watchdog.stop()
        code, log = self.images[spec["image"]], self.folder / f"{name}.log"
        watchdog = Watchdog(code, self._environment(spec), self.http, log, cold_s=self.cold_s)
        await watchdog.start()
        spec = {"namespace": NAMESPACE, **spec}
        self.functions[name] = Deployed(spec, watchdog, time.monotonic() + self.available_after_s)

    def _environment(self, spec: dict[str, Any]) -> dict[str, str]:
        """A container's, with the folder that its secrets really are in."""
        mount = self.folder / spec["service"]
        mount.mkdir(exist_ok=True)
        for secret in spec.get("secrets") or []:
            (mount / secret).write_bytes(self.secrets[secret])
        env = {"PATH": os.defpath, "HOME": str(mount), "HOSTNAME": spec["service"], **(spec.get("envVars") or {})}
        return {key: value.replace(SECRETS_AT, str(mount)) for key, value in env.items()}
