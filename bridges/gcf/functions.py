"""Creates, deletes and lists Cloud Functions (2nd gen) that a client's topic triggers."""

import re
from typing import Any, Final

import msgspec

from bridges import environment
from bridges.errors import PlatformFailed
from bridges.gcf.api import Api
from bridges.gcf.pubsub import Topics, managing
from bridges.gcf.settings import Settings
from broker.messages.function import Change, Deployed, Function

MOST_S: Final = 540
"""How long an event-driven function may take."""

PAGE: Final = 100

_FABRIC: Final = "fedkeeper-fabric"
_DIGEST: Final = "fedkeeper-digest"
_CLIENT: Final = "fedkeeper-client"
_LABEL: Final = re.compile(r"[a-z0-9_-]{0,63}")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a function may ask of Cloud Functions alone.

    Attributes:
        runtime: empty: that of the bridge's settings.
        entry_point: the Python function to call; empty: that of the bridge's settings.
        min_instances: instances that are kept warm, and paid for.
        vpc_connector: the way to a broker in a private network; empty: none.
    """

    runtime: str = ""
    entry_point: str = ""
    min_instances: int = 0
    vpc_connector: str = ""


class Functions:
    """The functions of one project and location; see `bridges.platform.Functions`.

    Args:
        settings: of the project.
        api: of Cloud Functions.
        topics: the project's topics.
    """

    def __init__(self, settings: Settings, api: Api, topics: Topics) -> None:
        self._settings = settings
        self._api = api
        self._topics = topics

    async def check(self) -> None:
        """Ask for something small, to see whether the credentials are good."""
        await self._page("check the credentials", {"pageSize": "1"})

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:
        """Bring a function and its topic to what they should be; see `bridges.platform.Functions`."""
        what = f"create {function.name}"
        body = self._body(function, what)
        if package is None:
            raise self._failed(what, "it needs a package of the function's code")
        found = await self._ours(function.name, what)
        is_triggered = await self._has_topic(body, what) and found is not None
        if found is not None and is_triggered and self._deployed(found).digest == function.digest:
            return "same", self._deployed(found)
        body["buildConfig"]["source"] = await self._uploaded(package, what)
        if found is not None and is_triggered:
            await self._update(found, body, what)
        else:
            await self._make(found, body, what)
        return "created" if found is None else "updated", self._deployed({**body, "state": "ACTIVE"})

    async def _has_topic(self, body: dict[str, Any], what: str) -> bool:
        """See that the function's topic is there; whether anything is subscribed to it."""
        topic = body["eventTrigger"]["pubsubTopic"]
        with managing(self._settings, what):
            await self._topics.create(topic, body["labels"])
            return await self._topics.has_subscriber(topic)

    async def _update(self, found: dict[str, Any], body: dict[str, Any], what: str) -> None:
        changed = {**body, "labels": {**found["labels"], **body["labels"]}}
        mask = {"updateMask": "labels,buildConfig,serviceConfig,eventTrigger"}
        await self._do("PATCH", found["name"], what, json=changed, params=mask)

    async def _make(self, found: dict[str, Any] | None, body: dict[str, Any], what: str) -> None:
        if found is not None:
            # Its trigger hung on a topic that somebody deleted, and no update of the function mends that.
            await self._do("DELETE", found["name"], what)
        path, _, name = body["name"].rpartition("/")
        await self._do("POST", path, what, json=body, params={"functionId": name})

    async def delete(self, name: str) -> Change:
        """Delete a function of ours, and its topic; see `bridges.platform.Functions`."""
        what, topic = f"delete {name}", self._settings.topic_of(name)
        found = await self._ours(name, what)
        if found is not None:
            await self._do("DELETE", found["name"], what)
        with managing(self._settings, what):
            if _CLIENT in (await self._topics.labels(topic) or {}):
                await self._topics.delete(topic)
        return "absent" if found is None else "deleted"

    async def list(self) -> list[Deployed]:
        """Every function there, ours and those of others."""
        found: list[Deployed] = []
        query = {"pageSize": str(PAGE)}
        while True:
            page = await self._page("list its functions", query)
            found += [self._deployed(one) for one in page.get("functions", [])]
            if not page.get("nextPageToken"):
                return found
            query["pageToken"] = page["nextPageToken"]

    async def _page(self, what: str, query: dict[str, str]) -> dict[str, Any]:
        page = await self._api.call("GET", f"{self._settings.parent}/functions", what, params=query)
        if page is None:
            raise self._failed(what, f"there is no {self._settings.parent}")
        return page

    async def _ours(self, name: str, what: str) -> dict[str, Any] | None:
        found = await self._api.call("GET", self._settings.function_of(name), what)
        if found is not None and _CLIENT not in found.get("labels", {}):
            raise self._failed(what, f"{found['name']} is somebody else's: it has no label {_CLIENT}")
        return found

    async def _do(self, method: str, path: str, what: str, **request: Any) -> None:
        operation = await self._api.call(method, path, what, **request)
        if operation is not None:
            await self._api.finish(operation, what)
        elif method != "DELETE":
            raise self._failed(what, f"there is no {path}")

    async def _uploaded(self, package: bytes, what: str) -> dict[str, Any]:
        path = f"{self._settings.parent}/functions:generateUploadUrl"
        place = await self._api.call("POST", path, what, json={})
        if place is None:
            raise self._failed(what, f"there is no {self._settings.parent}")
        await self._api.upload(place["uploadUrl"], package, what)
        return {"storageSource": place["storageSource"]}

    def _deployed(self, found: dict[str, Any]) -> Deployed:
        labels, trigger = found.get("labels", {}), found.get("eventTrigger", {})
        name = found["name"].rpartition("/")[2]
        return Deployed(
            name=labels.get(_CLIENT, name),
            fabric=labels.get(_FABRIC, ""),
            digest=labels.get(_DIGEST, "") if found.get("state") == "ACTIVE" else "",
            url=trigger.get("pubsubTopic", ""),
        )

    def _body(self, function: Function, what: str) -> dict[str, Any]:
        """The function as the API wants it, but for its source."""
        settings, options = self._settings, self._options(function, what)
        self._check(function, what)
        return {
            "name": settings.function_of(function.name),
            "environment": "GEN_2",
            "labels": {_FABRIC: function.fabric, _DIGEST: function.digest, _CLIENT: function.name},
            "buildConfig": {
                "runtime": options.runtime or settings.runtime,
                "entryPoint": options.entry_point or settings.entry_point,
            },
            "serviceConfig": {
                "timeoutSeconds": function.timeout_s,
                "availableMemory": f"{function.memory_mb}Mi",
                # A client trains one task at a time; a second copy of a task waits, and finds it done.
                "maxInstanceCount": 1,
                "maxInstanceRequestConcurrency": 1,
                "minInstanceCount": options.min_instances,
                **_environment(function, settings.project),
                "ingressSettings": settings.ingress,
                **({"vpcConnector": options.vpc_connector} if options.vpc_connector else {}),
                **({"serviceAccountEmail": settings.service_account} if settings.service_account else {}),
            },
            "eventTrigger": {
                "eventType": "google.cloud.pubsub.topic.v1.messagePublished",
                "pubsubTopic": settings.topic_of(function.name),
                "retryPolicy": settings.retry_policy,
                **({"serviceAccountEmail": settings.service_account} if settings.service_account else {}),
            },
        }

    def _check(self, function: Function, what: str) -> None:
        if function.timeout_s > MOST_S:
            reason = f"an event-driven function may take {MOST_S} s at most, not {function.timeout_s} s"
            raise self._failed(what, reason)
        if not function.broker:
            raise self._failed(what, "it must reach the broker: nothing that it returns comes back through Pub/Sub")
        if not _LABEL.fullmatch(function.fabric):
            raise self._failed(what, f"fabric {function.fabric!r} is no label: use up to 63 of a-z, 0-9, '-' and '_'")

    def _options(self, function: Function, what: str) -> Options:
        try:
            return msgspec.convert(function.options, Options)
        except msgspec.ValidationError as exc:
            raise self._failed(what, f"its options: {exc}") from exc

    def _failed(self, what: str, reason: str) -> PlatformFailed:
        return PlatformFailed(self._settings.name, what, reason)


def _environment(function: Function, project: str) -> dict[str, Any]:
    """A function's variables; Google's Secret Manager fills in those that are secret, and no bridge ever has them."""
    env = environment.with_secret_variables(function)
    secrets = [
        {"key": name, "projectId": project, "secret": secret, "version": "latest"}
        for name, secret in env.secrets.items()
    ]
    return {"environmentVariables": env.plain, "secretEnvironmentVariables": secrets}
