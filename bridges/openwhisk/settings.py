"""Settings of a bridge to an OpenWhisk namespace."""

from typing import Annotated, Literal

from msgspec import Meta

from bridges.settings import PlatformSettings
from broker.support.validation import AtLeastOne, Positive


class Settings(PlatformSettings, frozen=True, kw_only=True):
    """The platform's part of a bridge's file.

    Attributes:
        host: base address, such as `https://openwhisk.example.org`.
        auth: name of the secret with the namespace's key, `uuid:key`.
        name: name of the platform, a level of the task topics `fl.tasks.<name>.<client>`.
        namespace: namespace of the functions; `_` for the key's own.
        ca_file: PEM file of certificates to trust, for a self-signed one; empty for those that the system trusts.
        invoke: `trigger` fires a trigger, and a rule starts the action. `action` invokes the action itself; this is
            faster by one record, and the function does not get the namespace's key.
        kind: runtime of functions that name none.
        concurrency: limit of the invocations at once. A lower limit of the namespace is kept too.
        timeout_s: longest time limit of a function, in seconds.
        settle_s: time until a record must be stored after the end of a run, in seconds.
        poll_first_s: delay before the first poll for a record, in seconds; it doubles with each poll.
        poll_most_s: upper limit of that delay, in seconds.
    """

    host: str
    auth: str
    name: str = "openwhisk"
    namespace: str = "_"
    ca_file: str = ""
    invoke: Literal["trigger", "action"] = "trigger"
    kind: str = "python:3.11"
    concurrency: AtLeastOne = 30
    timeout_s: Positive = 300.0
    settle_s: Annotated[float, Meta(ge=0)] = 60.0
    poll_first_s: Positive = 0.5
    poll_most_s: Positive = 10.0

    @property
    def uses_triggers(self) -> bool:
        """Whether functions have a trigger and a rule."""
        return self.invoke == "trigger"
