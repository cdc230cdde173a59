"""How a command has ended, as its exit status."""

from enum import IntEnum
from typing import Final

from broker.errors import BadTopic, BadUrl
from broker.messages.errors import JobError
from fedkeeper.errors import BadConfigFile, BadOption, JobFailed, JobRefused, JobStopped, NoSuchFile, NotAnswered


class ExitCode(IntEnum):
    """The exit statuses of every command. Scripts may rely on them (docs/cli.md)."""

    DONE = 0
    FAILED = 1
    """An error, which standard error explains; or what `sites --check` or `clients check` found, in their result."""
    USAGE = 2
    """Wrong options or arguments, or a mistake in a file that they name; nothing was done."""
    JOB_FAILED = 3
    """The job that the command followed has failed or was refused."""
    JOB_CANCELLED = 4
    """The job that the command followed was cancelled."""
    NOT_ANSWERED = 5
    """No FL server took the submitted job in time. The broker keeps it."""
    INTERRUPTED = 130
    """Ctrl-C or another signal; standard error says what goes on."""


_OF: Final[tuple[tuple[type[Exception], ExitCode], ...]] = (
    (BadOption, ExitCode.USAGE),
    (BadUrl, ExitCode.USAGE),
    (BadTopic, ExitCode.USAGE),
    (BadConfigFile, ExitCode.USAGE),
    (JobError, ExitCode.USAGE),
    (NoSuchFile, ExitCode.USAGE),
    (JobRefused, ExitCode.JOB_FAILED),
    (JobFailed, ExitCode.JOB_FAILED),
    (JobStopped, ExitCode.JOB_CANCELLED),
    (NotAnswered, ExitCode.NOT_ANSWERED),
)


def of(error: Exception) -> ExitCode:
    """Return the exit status of a command that an error has ended."""
    return next((code for kind, code in _OF if isinstance(error, kind)), ExitCode.FAILED)
