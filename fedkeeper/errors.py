"""What the front door raises, beside the errors of the package behind it.

FedKeeperError
├── NotAnswered     no FL server took the submission in time; it is kept until one does
├── JobRefused      the server refused the job
├── JobLost         the job ended without a model
├── NoSuchJob       no job has that id
├── Missing         a file or program that is needed is not there
└── BadOption       an option that can't be used
"""


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
