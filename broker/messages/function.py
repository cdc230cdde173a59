"""Messages that create, list and delete a platform's functions, and that ask for a look at a client's data.

A client sends a request to `fl.fabric.<platform>.<verb>`. The platform's bridge replies on
`fl.replies.<the request's id>`, so any client of the broker can manage a platform behind NAT.
"""

import hashlib
from typing import Any, ClassVar, Final, Literal

import msgspec

from broker.messages import codec
from broker.messages.data_report import DataReport
from broker.messages.round import BlobRef

Verb = Literal["create", "delete", "list", "check"]

_UPGRADE: Final = "upgrade this bridge to the version that deploys the functions"

Change = Literal["created", "updated", "same", "deleted", "absent"]


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """The desired state of a client's function on its platform. It names secrets and never contains them.

    Attributes:
        name: name of the function on the platform; also the client's id.
        fabric: name of the deployment file that defines the function.
        broker: the broker's address as the function reaches it, with a user but without a password; empty: the
            function has no route to the broker, and returns its update in the response.
        password: name of the secret that holds the broker's password; empty: the broker needs no password.
        key: name of the secret that signs triggers; empty: triggers are not signed.
        image: container image, on platforms that run containers.
        package: archive of the function's code, on platforms that take an archive.
        env: additional environment variables of the function.
        memory_mb: memory of one instance, in MB.
        timeout_s: time limit of one invocation, in seconds.
        options: options of this platform only (`kind`, `runtime`, `constraints`, ...).
        schema: schema number of the message.
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
        """Digest of all fields: 32 hexadecimal digits, a legal label on every platform."""
        fields = msgspec.to_builtins(self)
        # The schema describes the message, not the function.
        del fields["schema"]
        return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()[:32]


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """A function as its platform lists it.

    Attributes:
        name: name of the function on the platform.
        fabric: name of the deployment file that defines the function; empty: FedKeeper did not create it.
        digest: digest of the `Function` that it was created from; empty: FedKeeper did not create it, or its creation
            was interrupted.
        url: where the platform triggers it: a URL, or the name of a topic or trigger.
        topics: topics that a function of another owner subscribes to (annotation `topic`).
    """

    name: str
    fabric: str = ""
    digest: str = ""
    url: str = ""
    topics: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a bridge to create, delete or list functions, or to check a client's data.

    Attributes:
        id: last level of the reply's topic; unguessable.
        deadline_s: seconds since the epoch after which the requester no longer waits for the reply.
        function: the function to create or update.
        name: name of the function to delete, or id of the client whose data is checked.
        data_loc: path or URL of that client's data.
        state_loc: path or URL where that client keeps its personal layers; empty: beside its data.
    """

    upgrade: ClassVar = _UPGRADE

    id: str
    deadline_s: float
    function: Function | None = None
    name: str = ""
    data_loc: str = ""
    state_loc: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge's reply to a request.

    Attributes:
        error: why the request failed; empty: it succeeded.
        change: what the request changed.
        functions: the function that was created, or all functions of the platform.
        report: what a client's data is.
    """

    error: str = ""
    change: Change = "same"
    functions: tuple[Deployed, ...] = ()
    report: DataReport | None = None
