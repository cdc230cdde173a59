"""What the front door raises, beside the errors of the package behind it.

FedKeeperError
├── NotAnswered     no FL server took the submission in time; it is kept until one does
├── JobRefused      the server refused the job
├── JobLost         the job ended without a model
├── NoSuchJob       no job has that id
├── BadDeploymentFile       a fabric file, or a bridge's, that can't be used: one field, its value, what is allowed
├── NoBridge        no bridge answered a request
├── DeployFailed    something of a fabric could not be made, or removed
├── NoSuchClient    no client has that id
├── Missing         a file or program that is needed is not there
└── BadOption       an option that can't be used
"""

from typing import Final

from bridges import platforms


class FedKeeperError(Exception):
    """Root of the package's errors."""


class NotAnswered(FedKeeperError):
    """Raised when no FL server took a submission in time; the broker keeps it until one does."""

    def __init__(self, job: str, timeout_s: float) -> None:
        super().__init__(
            f"no FL server took job {job} within {timeout_s:g} s; the broker keeps it until one runs "
            "(`fedkeeper up` or `fedkeeper server`)"
        )
        self.job = job
        self.timeout_s = timeout_s


class JobRefused(FedKeeperError):
    """Raised when the server refused a job."""

    def __init__(self, job: str, field: str, reason: str) -> None:
        super().__init__(f"job {job} was refused: {reason}")
        self.job = job
        self.field = field
        self.reason = reason


class JobLost(FedKeeperError):
    """Raised when a job ended without being completed."""

    def __init__(self, job: str, reason: str) -> None:
        super().__init__(f"job {job} {reason}")
        self.job = job
        self.reason = reason


class NoSuchJob(FedKeeperError):
    """Raised when no job has that id."""

    def __init__(self, job: str) -> None:
        super().__init__(f"no job has the id {job!r}; `fedkeeper jobs` lists them")
        self.job = job


class Missing(FedKeeperError):
    """Raised when a file or program that is needed is not there; the message says what to do."""


class BadOption(FedKeeperError):
    """Raised for an option that can't be used; the message says what can."""


class BadDeploymentFile(FedKeeperError):
    """Raised for a fabric file, or a bridge's file, that can't be used."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field} = {value!r}: {reason}" if field else f"{value}: {reason}")
        self.field = field
        self.value = value
        self.reason = reason


class NoBridge(FedKeeperError):
    """Raised when no bridge answered a request in time."""

    def __init__(self, platform: str, verb: str, timeout_s: float) -> None:
        kinds = "|".join(kind.name for kind in platforms.known() if kind.has_functions)
        super().__init__(
            f"no bridge answered for platform {platform!r} within {timeout_s:g} s (asked to {verb}); "
            f"is it running? `fedkeeper bridge {kinds} --config FILE`"
        )
        self.platform = platform
        self.verb = verb
        self.timeout_s = timeout_s


_SHOWN: Final = 5


class DeployFailed(FedKeeperError):
    """Raised when something of a fabric could not be made or removed; running the command again goes on from there."""

    def __init__(self, failures: dict[str, str]) -> None:
        shown = "; ".join(f"{client}: {reason}" for client, reason in sorted(failures.items())[:_SHOWN])
        more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        super().__init__(f"{len(failures)} of the fabric's clients are not as they should be: {shown}{more}")
        self.failures = failures


class NoSuchClient(FedKeeperError):
    """Raised when no client has that id."""

    def __init__(self, client: str) -> None:
        super().__init__(f"no client {client!r} is registered; `fedkeeper clients` lists them")
        self.client = client
