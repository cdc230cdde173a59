"""Errors of the command line and the SDK.

FedKeeperError              also raised itself, for failures that no caller tells apart
├── NotAnswered             no FL server accepted the submission in time; the broker keeps it
├── JobRefused              the server refused the job
├── JobFailed               the job that was followed has failed
├── JobStopped              the job that was followed was cancelled
├── NoSuchJob               no job has that id
├── NoModelYet              no round of the job is completed
├── JobNotFinished          the job still runs, so it can't be deleted
├── BadConfigFile           a deployment file, or the file of a bridge or relay, has wrong fields
├── NoBridge                no bridge answered a request
├── NotChecked              nobody could look at a client's data
├── DeployFailed            a deployment could not create or remove all functions
├── NotSaved                a result can't be written
├── Missing                 a file or library that the command needs does not exist
│   └── NoSuchFile          a file that an argument names does not exist
└── BadOption               an option or argument has a wrong value
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from broker.support.validation import Mistake, in_file

if TYPE_CHECKING:
    from fedkeeper.runs.run import Run

FAILURES_SHOWN: Final = 5
"""How many clients the message of `DeployFailed` names."""


class FedKeeperError(Exception):
    """Root of the package's errors."""


class NotAnswered(FedKeeperError):
    """Raised when no FL server accepted a submission in time; the broker keeps it until one does.

    Attributes:
        job: the job's id.
        timeout_s: how long the caller waited, in seconds.
        submission: id of the event that submitted it, for `Client.wait_until_accepted`.
    """

    def __init__(self, job: str, timeout_s: float, submission: str = "") -> None:
        super().__init__(
            f"no FL server took job {job} within {timeout_s:g} s; the broker keeps it until one runs "
            "(`fedkeeper up` or `fedkeeper server`)"
        )
        self.job = job
        self.timeout_s = timeout_s
        self.submission = submission


class JobRefused(FedKeeperError):
    """Raised when the server refused a job.

    Attributes:
        job: the job's id.
        field: the job's wrong field, such as `cohort.clients`; empty: the whole job.
        reason: a sentence with the field, its value and the allowed values.
    """

    def __init__(self, job: str, field: str, reason: str) -> None:
        super().__init__(f"job {job} was refused: {reason}")
        self.job = job
        self.field = field
        self.reason = reason


class JobFailed(FedKeeperError):
    """Raised when a job that was followed has ended without being completed or cancelled.

    The event of a job that has failed is `fedkeeper.events.JobFailed`.

    Attributes:
        job: the job's id.
        outcome: how it ended, as a clause such as `failed: ...`.
        run: what `fedkeeper.run` has saved of it; None: nothing.
    """

    run: "Run | None" = None

    def __init__(self, job: str, outcome: str) -> None:
        super().__init__(f"job {job} {outcome}")
        self.job = job
        self.outcome = outcome


class JobStopped(FedKeeperError):
    """Raised when a job that was followed was cancelled.

    Attributes:
        job: the job's id.
        outcome: how it ended, as a clause such as `cancelled after 3 rounds`.
        run: what `fedkeeper.run` has saved of it; None: nothing.
    """

    run: "Run | None" = None

    def __init__(self, job: str, outcome: str) -> None:
        super().__init__(f"job {job} was {outcome}")
        self.job = job
        self.outcome = outcome


class NoSuchJob(FedKeeperError):
    """Raised when no job has that id."""

    def __init__(self, job: str) -> None:
        super().__init__(f"no job has the id {job!r}; `fedkeeper jobs` lists them")
        self.job = job


class NoModelYet(FedKeeperError):
    """Raised when no round of a job is completed. Its initial model, which nobody has trained, is no result.

    Attributes:
        job: the job's id.
        round: the open round; 0: none was opened yet.
    """

    def __init__(self, job: str, round_: int, *, ended: str = "") -> None:
        state = f"round {round_} is open" if round_ else "it has not begun"
        text = f"job {job} has no model yet: {state}; the model of a round is there when the round is completed"
        end = f"was {ended}" if ended == "cancelled" else ended
        super().__init__(f"job {job} has no model: it {end} before a round was completed" if ended else text)
        self.job = job
        self.round = round_


class JobNotFinished(FedKeeperError):
    """Raised when a job that is to be deleted has not ended.

    Attributes:
        job: the job's id.
    """

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job} has not ended; cancel it first: `fedkeeper cancel {job}`")
        self.job = job


class NotSaved(FedKeeperError):
    """Raised when a file with results can't be written; what it held before is still there.

    Attributes:
        path: the file.
        reason: what the system says, such as `No space left on device`.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"can't write {path}: {reason}; make room there, or give another folder: --out")
        self.path = path
        self.reason = reason


class Missing(FedKeeperError):
    """Raised when a needed file or library does not exist; the message says what to do."""


class NoSuchFile(Missing):
    """Raised when a file that an argument names does not exist, or can't be read."""


class BadOption(FedKeeperError):
    """Raised for a wrong option or argument; the message says what is allowed."""


class BadConfigFile(FedKeeperError):
    """Raised for mistakes in a deployment file, or in the file of a bridge or relay.

    Attributes:
        errors: every mistake that was found: its field, value, what is allowed, and its line.
        file: the file's name; empty: not known.
        field: the first wrong field, such as `data.deal.clients`; empty: the whole file.
        value: that field's value.
        reason: what that field allows.
    """

    def __init__(self, errors: Sequence[Mistake], file: str = "") -> None:
        super().__init__(in_file(file, errors) if file else "; ".join(map(str, errors)))
        self.errors = tuple(errors)
        self.file = file
        self.field, self.value, self.reason, _ = errors[0]


class NoBridge(FedKeeperError):
    """Raised when no bridge answered a request in time.

    Attributes:
        platforms: the platforms' names.
        verb: the request: create, delete or list.
        timeout_s: how long the caller waited, in seconds.
    """

    def __init__(self, silent: str | Sequence[str], verb: str, timeout_s: float) -> None:
        # Imported here because every program that imports fedkeeper would pay for it.
        from bridges import platforms

        names = (silent,) if isinstance(silent, str) else tuple(silent)
        kinds = "|".join(kind.name for kind in platforms.known() if kind.has_functions)
        which = f"platform {names[0]!r}" if len(names) == 1 else f"the platforms {', '.join(map(repr, names))}"
        pronoun = "is it" if len(names) == 1 else "are they"
        super().__init__(
            f"no bridge answered for {which} within {timeout_s:g} s (asked to {verb}); "
            f"{pronoun} running? `fedkeeper bridge {kinds} --config FILE`"
        )
        self.platforms = names
        self.verb = verb
        self.timeout_s = timeout_s


class NotChecked(FedKeeperError):
    """Raised when nobody could look at a client's data.

    Attributes:
        client: the client's id.
        reason: why, and what to do.
    """

    def __init__(self, client: str, reason: str) -> None:
        super().__init__(f"{client} was not checked: {reason}")
        self.client = client
        self.reason = reason


class DeployFailed(FedKeeperError):
    """Raised when a deployment could not create or remove everything. A second deployment continues from there.

    Attributes:
        failures: the reason of each failure, by client or platform.
    """

    def __init__(self, failures: dict[str, str]) -> None:
        reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(failures.items())[:FAILURES_SHOWN])
        more = f"; and {len(failures) - FAILURES_SHOWN} more" if len(failures) > FAILURES_SHOWN else ""
        super().__init__(f"the deployment failed for {len(failures)} of the fabric's clients: {reasons}{more}")
        self.failures = failures
