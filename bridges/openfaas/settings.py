"""Settings of a bridge to an OpenFaaS gateway."""

from typing import Final, Literal

from bridges.settings import PlatformSettings
from broker.support.validation import NotNegative, Positive

NAMESPACE: Final = "openfaas-fn"
"""The gateway looks here for a function that is called without a namespace."""


class Settings(PlatformSettings, frozen=True, kw_only=True):
    """The platform's part of a bridge's file.

    Attributes:
        name: name of the platform, a level of the task topics `fl.tasks.<name>.<client>`.
        gateway: URL of the gateway, without user and password.
        ca_file: PEM file of the authority that signed the gateway's certificate; empty for those that the system knows.
        username: user name for the gateway's own API. Functions never see it.
        password: name of the secret with the gateway's password; empty if the gateway has none.
        namespace: namespace of the functions.
        key: name of the secret that signs the calls; empty for unsigned calls.
        reply: way of an update. With `broker` the function publishes it. With `response`, for a function that can't
            reach the broker, model and update travel inside the call and its response.
        per_minute: limit of the calls per minute; 0 for no limit.
        run_s: how long a call lasts after its start, in seconds; a training that is heard of may go on after that. The
            gateway's `upstream_timeout` must be longer than `start_s` and `run_s` together.
        ready_s: time limit until a new function can be called, in seconds.
        rebuild_s: interval between two reads of the annotation `topic` of other functions, in seconds.
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
