"""How a command has ended, as its exit status."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of every command. Scripts may rely on them (docs/cli.md)."""

    DONE = 0
    FAILED = 1
    """An error, which standard error explains."""
    USAGE = 2
    """Wrong options or arguments; nothing was done."""
    JOB_FAILED = 3
    """The job that the command followed has failed or was refused."""
    JOB_CANCELLED = 4
    """The job that the command followed was cancelled."""
    NOT_ANSWERED = 5
    """No FL server took the submitted job in time. The broker keeps it."""
    INTERRUPTED = 130
    """Ctrl-C or another signal; standard error says what goes on."""
