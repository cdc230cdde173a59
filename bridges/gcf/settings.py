"""Settings of a bridge to a Google Cloud project, and the resource names that follow from them."""

import os
import re
from typing import Annotated, Final, Literal
from urllib.parse import urlparse

from msgspec import Meta

from bridges import endpoint
from bridges.errors import BadSettings
from bridges.settings import PlatformSettings
from broker.support.validation import AtLeastOne, Positive

EMULATOR: Final = "PUBSUB_EMULATOR_HOST"
"""Google's environment variable: the client library connects to this host and port, without credentials."""

PUBSUB_BYTES: Final = 10_000_000
"""Pub/Sub's size limit of a request."""

_TOPIC: Final = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,214}")
"""A topic's id has 3 to 255 characters; 40 of them are left for the client's id."""

_FUNCTION: Final = re.compile(r"(?!fk-)[a-z]([a-z0-9-]*[a-z0-9])?")

RetryPolicy = Literal["RETRY_POLICY_RETRY", "RETRY_POLICY_DO_NOT_RETRY"]


class Settings(PlatformSettings, frozen=True, kw_only=True):
    """The platform's part of a bridge's file. Credentials are Google's application default credentials.

    Attributes:
        project: id of the project.
        name: name of the platform, a level of the task topics `fl.tasks.<name>.<client>`.
        location: region of the functions.
        api: address of the Cloud Functions API.
        topic: id of a client's topic; `{client}` stands for the client's id.
        runtime: runtime of functions whose options name none.
        entry_point: name of the Python function to call, for functions whose options name none.
        service_account: e-mail address of the account of functions and triggers; empty for the project's default.
        ingress: callers that may use a function's URL. A function's trigger always may.
        retry_policy: whether an event that the function did not acknowledge is delivered again, after 10 to 600 s, for
            24 h. A function knows the tasks that it has done, so a repetition does no harm.
        concurrency: limit of the invocations at once.
        run_s: longest silence of a training whose function does not say how often it reports, in seconds. Google stops
            an event-driven function after 540 s.
        max_bytes: size limit of an event as it is delivered: JSON, with the data in base64. Eventarc's limit is 512 KB.
        call_s: time limit of one call to Google with its retries, in seconds.
        deploy_s: time limit to create, change or delete a function, in seconds.
        poll_s: delay before the first poll of an operation, in seconds; it grows with each poll, up to 10 s.

    Raises:
        BadSettings: a value is not valid.
    """

    project: str
    name: str = "gcf"
    location: str = "europe-west1"
    api: str = "https://cloudfunctions.googleapis.com"
    topic: str = "fedkeeper-{client}"
    runtime: str = "python311"
    entry_point: str = "train"
    service_account: str = ""
    ingress: Literal["ALLOW_ALL", "ALLOW_INTERNAL_ONLY", "ALLOW_INTERNAL_AND_GCLB"] = "ALLOW_INTERNAL_ONLY"
    retry_policy: RetryPolicy = "RETRY_POLICY_RETRY"
    concurrency: AtLeastOne = 100
    run_s: Positive = 600.0
    max_bytes: Annotated[int, Meta(ge=1, le=PUBSUB_BYTES)] = 512_000
    call_s: Positive = 10.0
    deploy_s: Positive = 600.0
    poll_s: Positive = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{client}" not in self.topic or not _TOPIC.fullmatch(self.topic.replace("{client}", "c")):
            allowed = "letters, digits and -._~+% with {client} in it, beginning with a letter but not with goog"
            raise BadSettings("topic", self.topic, allowed)
        url = urlparse(self.api)
        if url.scheme != "https" and url.hostname not in endpoint.LOOPBACK:
            raise BadSettings("api", self.api, "a token goes there: use https://")

    @property
    def parent(self) -> str:
        """Full name of the location that contains the functions."""
        return f"projects/{self.project}/locations/{self.location}"

    def topic_name(self, client: str, url: str = "") -> str:
        """Return the full name of a client's topic.

        Args:
            client: id of the client.
            url: name of another topic to use, `projects/P/topics/T` or its id alone; empty for the client's own.
        """
        topic = url or self.topic.replace("{client}", client)
        return topic if topic.startswith("projects/") else f"projects/{self.project}/topics/{topic}"

    def function_name(self, client: str) -> str:
        """Return the full name of a client's function.

        The function's id is the client's. A client's id that does not start with a letter or that ends with a hyphen is
        not a legal function's id, so it gets a prefix and a suffix.
        """
        legal = client if _FUNCTION.fullmatch(client) else f"fk-{client}-x"
        return f"{self.parent}/functions/{legal}"


def is_emulated() -> bool:
    """Whether the environment names an emulator. An emulator needs no credentials."""
    return bool(os.environ.get(EMULATOR))
