"""Creates, updates, deletes and lists Cloud Functions (2nd gen), each triggered by its client's topic."""

import re
from typing import Any, Final

import msgspec

from bridges import environment
from bridges.errors import PlatformFailed
from bridges.gcf.api import Api
from bridges.gcf.pubsub import Topics, management_errors
from bridges.gcf.settings import Settings
from broker.messages.function import Change, Deployed, Function

MOST_S: Final = 540
"""Google's time limit of an event-driven function, in seconds."""

PAGE: Final = 100

_FABRIC: Final = "fedkeeper-fabric"
_DIGEST: Final = "fedkeeper-digest"
_CLIENT: Final = "fedkeeper-client"
_LABEL: Final = re.compile(r"[a-z0-9_-]{0,63}")


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Allowed keys of `Function.options`.

    Attributes:
        runtime: runtime of the function; empty for that of the bridge's settings.
        entry_point: name of the Python function to call; empty for that of the bridge's settings.
        min_instances: number of instances that stay warm; Google charges for them.
        vpc_connector: connector to a private network with the broker; empty for none.
    """

    runtime: str = ""
    entry_point: str = ""
    min_instances: int = 0
    vpc_connector: str = ""


class Functions:
    """Implements `bridges.platform.Functions` for one project and location.

    Args:
        settings: settings of the bridge.
        api: Cloud Functions API.
        topics: topics of the project.
    """

    def __init__(self, settings: Settings, api: Api, topics: Topics) -> None:
        self._settings = settings
        self._api = api
        self._topics = topics

    async def check(self) -> None:
        """Check the credentials with a small request.

        Raises:
            PlatformDenied: the API refuses the credentials.
            PlatformFailed: there is no such project or location; PlatformAway, if the API is not reachable.
        """
        await self._page("check the credentials", {"pageSize": "1"})

    async def create(self, function: Function, package: bytes | None) -> tuple[Change, Deployed]:
        """Implements `bridges.platform.Functions.create`; creates the function's topic too."""
        purpose = f"create {function.name}"
        body = self._body(function, purpose)
        if package is None:
            raise self._failed(purpose, "it needs a package of the function's code")
        current = await self._own(function.name, purpose)
        topic = body["eventTrigger"]["pubsubTopic"]
        with management_errors(self._settings, purpose):
            await self._topics.create(topic, body["labels"])
            is_triggered = await self._topics.has_subscriber(topic)
        if current is not None and is_triggered and self._deployed(current).digest == function.digest:
            return "same", self._deployed(current)
        body["buildConfig"]["source"] = await self._upload(package, purpose)
        if current is not None and is_triggered:
            changed = {**body, "labels": {**current["labels"], **body["labels"]}}
            mask = {"updateMask": "labels,buildConfig,serviceConfig,eventTrigger"}
            await self._do("PATCH", current["name"], purpose, json=changed, params=mask)
        else:
            if current is not None:
                # A user deleted its topic and with it the trigger. An update of the function does not restore that.
                await self._do("DELETE", current["name"], purpose)
            path, _, name = body["name"].rpartition("/")
            await self._do("POST", path, purpose, json=body, params={"functionId": name})
        return "created" if current is None else "updated", self._deployed({**body, "state": "ACTIVE"})

    async def delete(self, name: str) -> Change:
        """Implements `bridges.platform.Functions.delete`; deletes the function's topic too."""
        purpose, topic = f"delete {name}", self._settings.topic_name(name)
        current = await self._own(name, purpose)
        if current is not None:
            await self._do("DELETE", current["name"], purpose)
        with management_errors(self._settings, purpose):
            if _CLIENT in (await self._topics.labels(topic) or {}):
                await self._topics.delete(topic)
        return "absent" if current is None else "deleted"

    async def list(self) -> list[Deployed]:
        """Implements `bridges.platform.Functions.list`."""
        functions: list[Deployed] = []
        query = {"pageSize": str(PAGE)}
        while True:
            page = await self._page("list its functions", query)
            functions += [self._deployed(resource) for resource in page.get("functions", [])]
            if not page.get("nextPageToken"):
                return functions
            query["pageToken"] = page["nextPageToken"]

    async def _page(self, purpose: str, query: dict[str, str]) -> dict[str, Any]:
        page = await self._api.call("GET", f"{self._settings.parent}/functions", purpose, params=query)
        if page is None:
            raise self._failed(purpose, f"there is no {self._settings.parent}")
        return page

    async def _own(self, name: str, purpose: str) -> dict[str, Any] | None:
        """Return a function that we created; None if there is none. Raise PlatformFailed if it is not ours."""
        current = await self._api.call("GET", self._settings.function_name(name), purpose)
        if current is not None and _CLIENT not in current.get("labels", {}):
            raise self._failed(purpose, f"{current['name']} is somebody else's: it has no label {_CLIENT}")
        return current

    async def _do(self, method: str, path: str, purpose: str, **request: Any) -> None:
        """Start an operation and wait for its end. Deleting a resource that does not exist is no error."""
        operation = await self._api.call(method, path, purpose, **request)
        if operation is not None:
            await self._api.finish(operation, purpose)
        elif method != "DELETE":
            raise self._failed(purpose, f"there is no {path}")

    async def _upload(self, package: bytes, purpose: str) -> dict[str, Any]:
        """Upload a package and return the `source` of a build that uses it."""
        path = f"{self._settings.parent}/functions:generateUploadUrl"
        upload = await self._api.call("POST", path, purpose, json={})
        if upload is None:
            raise self._failed(purpose, f"there is no {self._settings.parent}")
        await self._api.upload(upload["uploadUrl"], package, purpose)
        return {"storageSource": upload["storageSource"]}

    def _deployed(self, resource: dict[str, Any]) -> Deployed:
        labels, trigger = resource.get("labels", {}), resource.get("eventTrigger", {})
        name = resource["name"].rpartition("/")[2]
        return Deployed(
            name=labels.get(_CLIENT, name),
            fabric=labels.get(_FABRIC, ""),
            digest=labels.get(_DIGEST, "") if resource.get("state") == "ACTIVE" else "",
            url=trigger.get("pubsubTopic", ""),
        )

    def _body(self, function: Function, purpose: str) -> dict[str, Any]:
        """Return a function in the API's terms, without its source."""
        settings, options = self._settings, self._checked_options(function, purpose)
        account = {"serviceAccountEmail": settings.service_account} if settings.service_account else {}
        return {
            "name": settings.function_name(function.name),
            "environment": "GEN_2",
            "labels": {_FABRIC: function.fabric, _DIGEST: function.digest, _CLIENT: function.name},
            "buildConfig": {
                "runtime": options.runtime or settings.runtime,
                "entryPoint": options.entry_point or settings.entry_point,
            },
            "serviceConfig": {
                "timeoutSeconds": function.timeout_s,
                "availableMemory": f"{function.memory_mb}Mi",
                # A client trains one task at a time. A second copy of a task waits, and finds that it is done.
                "maxInstanceCount": 1,
                "maxInstanceRequestConcurrency": 1,
                "minInstanceCount": options.min_instances,
                **_environment(function, settings.project),
                "ingressSettings": settings.ingress,
                **({"vpcConnector": options.vpc_connector} if options.vpc_connector else {}),
                **account,
            },
            "eventTrigger": {
                "eventType": "google.cloud.pubsub.topic.v1.messagePublished",
                "pubsubTopic": settings.topic_name(function.name),
                "retryPolicy": settings.retry_policy,
                **account,
            },
        }

    def _checked_options(self, function: Function, purpose: str) -> Options:
        try:
            options = msgspec.convert(function.options, Options)
        except msgspec.ValidationError as exc:
            raise self._failed(purpose, f"its options: {exc}") from exc
        if function.timeout_s > MOST_S:
            reason = f"an event-driven function may take {MOST_S} s at most, not {function.timeout_s} s"
            raise self._failed(purpose, reason)
        if not function.broker:
            raise self._failed(purpose, "it must reach the broker: nothing that it returns comes back through Pub/Sub")
        if not _LABEL.fullmatch(function.fabric):
            reason = f"fabric {function.fabric!r} is no label: use up to 63 of a-z, 0-9, '-' and '_'"
            raise self._failed(purpose, reason)
        return options

    def _failed(self, purpose: str, reason: str) -> PlatformFailed:
        return PlatformFailed(self._settings.name, purpose, reason)


def _environment(function: Function, project: str) -> dict[str, Any]:
    """Return a function's variables. Google's Secret Manager adds the secrets, so the bridge never sees them."""
    env = environment.with_secret_variables(function)
    secrets = [
        {"key": name, "projectId": project, "secret": secret, "version": "latest"}
        for name, secret in env.secrets.items()
    ]
    return {"environmentVariables": env.plain, "secretEnvironmentVariables": secrets}
