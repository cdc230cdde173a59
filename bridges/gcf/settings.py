"""What an operator says of a Google Cloud project, and the names that follow from it."""

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
"""Google's own variable: its client library then speaks to that host and port, without credentials."""

PUBSUB_BYTES: Final = 10_000_000
"""The largest request that Pub/Sub takes."""

_TOPIC: Final = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,214}")
"""A topic's id has 3 to 255 characters, of which a client's id may be 40."""

_FUNCTION: Final = re.compile(r"(?!fk-)[a-z]([a-z0-9-]*[a-z0-9])?")

RetryPolicy = Literal["RETRY_POLICY_RETRY", "RETRY_POLICY_DO_NOT_RETRY"]


class Settings(PlatformSettings, frozen=True, kw_only=True):
    """One project and location. Credentials are Google's application default credentials.

    Attributes:
        project: id of the project.
        location: region of the functions.
        api: where the Cloud Functions API is.
        topic: id of a client's topic; `{client}` stands for the client's id.
        runtime: of functions whose options name no other.
        entry_point: the Python function to call, where a function's options name no other.
        service_account: e-mail address of the account that functions and their triggers run as; empty: the project's
            default.
        ingress: who may call a function's URL; its trigger always may.
        retry_policy: whether an event that the function did not acknowledge comes again (10 to 600 s later, for 24 h).
            The function knows a task that it has done, so this does no harm.
        run_s: how long a function may train. An event-driven function gets at most 540 s.
        max_bytes: the largest event, as it is delivered: in JSON, with its data in base64. Eventarc takes 512 KB.
        call_s: how long one call to Google may take, its repetitions included.
        deploy_s: how long it may take to create, change or delete a function.
        poll_s: how soon to ask whether that is done; each further time later, up to 10 s.

    Raises:
        BadSettings: a value that can't be used.
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
        """The resource that the functions belong to."""
        return f"projects/{self.project}/locations/{self.location}"

    def topic_of(self, client: str, url: str = "") -> str:
        """Full name of a client's topic; `url` names another: `projects/P/topics/T`, or the topic's id alone."""
        topic = url or self.topic.replace("{client}", client)
        return topic if topic.startswith("projects/") else f"projects/{self.project}/topics/{topic}"

    def function_of(self, client: str) -> str:
        """Full name of a client's function.

        Its id is the client's, unless that does not begin with a letter or ends with a hyphen, as no function's may.
        """
        legal = client if _FUNCTION.fullmatch(client) else f"fk-{client}-x"
        return f"{self.parent}/functions/{legal}"


def is_emulated() -> bool:
    """Whether the environment names an emulator, which knows no credentials."""
    return bool(os.environ.get(EMULATOR))
