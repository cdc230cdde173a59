"""What an operator says of a namespace of an OpenWhisk."""

from typing import Annotated, Literal

from msgspec import Meta

from bridges.settings import PlatformSettings
from broker.support.validation import AtLeastOne, Positive


class Settings(PlatformSettings, frozen=True, kw_only=True):
    """A bridge to one namespace of an OpenWhisk.

    Attributes:
        host: base address, such as `https://openwhisk.example.org`.
        namespace: `_` is the key's own.
        auth: name of the secret that is the namespace's key, `uuid:key`.
        ca_file: certificates to trust instead of the system's, for a self-signed one; empty: the system's.
        invoke: `trigger` fires a trigger that a rule ties to the action; `action` invokes the action itself, which
            is quicker by one record and keeps the namespace's key out of what the function gets.
        kind: runtime of functions that name none.
        concurrency: fewer if the namespace allows fewer.
        timeout_s: the longest that a function may run here.
        settle_s: how long after its end a run's record may still be on its way into the store.
        poll_first_s: how soon a record is first looked for; the time between looks doubles.
        poll_most_s: the longest time between two looks.
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
    def triggered(self) -> bool:
        """Whether functions get a trigger and a rule."""
        return self.invoke == "trigger"
