"""What an operator says of an OpenFaaS gateway."""

from typing import Final, Literal

from bridges.settings import PlatformSettings
from broker.support.validation import NotNegative, Positive

NAMESPACE: Final = "openfaas-fn"
"""Where functions are that are called without one."""


class Settings(PlatformSettings, frozen=True, kw_only=True):
    """A bridge to an OpenFaaS gateway.

    Attributes:
        gateway: its URL, without user or password.
        ca_file: PEM file of the authority that signed its certificate; empty: one that the system knows.
        username: for the gateway's own API, never sent to functions.
        password: name of the secret that is its password; empty: the gateway wants none.
        namespace: where functions are made and looked for first.
        key: name of the secret that calls are signed with; empty: they are not signed.
        reply: how an update comes back: the function publishes it to the `broker` itself, or it has no route there, and
            model and update travel with the call and its `response`.
        per_minute: how many calls to make in a minute; 0: as many as there are.
        run_s: how long a function may train; the gateway's `upstream_timeout` must be longer than this and `start_s`
            together.
        ready_s: how long a new function may take until it can be called.
        rebuild_s: how often the annotations `topic` of other people's functions are read.
    """

    name: str = "openfaas"
    gateway: str = "http://127.0.0.1:8080"
    ca_file: str = ""
    username: str = "admin"
    password: str = ""
    namespace: str = NAMESPACE
    key: str = ""
    reply: Literal["broker", "response"] = "broker"
    per_minute: NotNegative = 0
    run_s: Positive = 600.0
    ready_s: Positive = 120.0
    rebuild_s: Positive = 10.0
