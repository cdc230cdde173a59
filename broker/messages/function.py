"""The messages that a platform's functions are created, listed and deleted by.

A request goes to `fl.fabric.<platform>.<verb>`, and the platform's bridge answers on `fl.replies.<request's id>`; so a
platform behind NAT is managed by whoever reaches the broker.
"""

import hashlib
from typing import Any, ClassVar, Final, Literal

import msgspec

from broker.messages import codec
from broker.messages.round import BlobRef

Verb = Literal["create", "delete", "list"]

_UPGRADE: Final = "upgrade this bridge to the version that deploys the functions"

Change = Literal["created", "updated", "same", "deleted", "absent"]


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A client's function as it should be on its platform. Secrets are named, never held.

    Attributes:
        name: of the function on the platform; also the client's id.
        fabric: name of the fabric file that it is part of.
        broker: address of the broker as the function reaches it, with a user but without a password; empty: it has no
            route there, and its update comes back in the response.
        password: name of the secret that is the broker's password; empty: the broker wants none.
        key: name of the secret that the bridge signs triggers with; empty: triggers are not signed.
        image: container image, where the platform runs one.
        package: archive of the function's code, where the platform takes one.
        env: further environment of the function.
        memory_mb: memory of one instance, in MB.
        timeout_s: how long one invocation may take.
        options: what only this platform knows of (`kind`, `runtime`, `constraints`, ...).
        schema: version of the message.
    """

    upgrade: ClassVar = _UPGRADE

    name: str
    fabric: str
    broker: str = ""
    password: str = ""
    key: str = ""
    image: str = ""
    package: BlobRef | None = None
    env: dict[str, str] = {}
    memory_mb: int = 2048
    timeout_s: int = 300
    options: dict[str, Any] = {}
    schema: int = codec.SCHEMA

    @property
    def digest(self) -> str:
        """Tells two versions apart; 32 hexadecimal digits, so that it is a legal label everywhere."""
        fields = msgspec.to_builtins(self)
        # How the message is written does not make it another function.
        del fields["schema"]
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()[:32]


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """A function as its platform lists it.

    Attributes:
        fabric: the fabric file that it was made from; empty: somebody else made it.
        digest: of the `Function` that it was made from; empty: somebody else made it, or it is incomplete.
        url: where the platform triggers it: a URL, or the name of a topic or trigger.
        topics: what a function of somebody else's wants to be called for (annotation `topic`).
    """

    name: str
    fabric: str = ""
    digest: str = ""
    url: str = ""
    topics: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a bridge is asked to do.

    Attributes:
        id: where the answer goes; unguessable.
        deadline_s: seconds since the epoch; nobody waits for the answer any longer.
        function: what to create, or to bring up to date.
        name: of the function to delete.
    """

    upgrade: ClassVar = _UPGRADE

    id: str
    deadline_s: float
    function: Function | None = None
    name: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it.

    Attributes:
        error: why it was not done; empty: it was done.
        change: what was done.
        functions: what the platform has now: the one that was created, or all.
    """

    error: str = ""
    change: Change = "same"
    functions: tuple[Deployed, ...] = ()
