"""How the end of a child process is described."""

import pytest

from broker.support.processes import describe_exit


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with code 0"),
        (3, "ended with code 3"),
        (-9, "was killed by signal SIGKILL (9)"),
        (-11, "was killed by signal SIGSEGV (11)"),
        (-45, "was killed by signal 45"),
    ],
)
def test_an_exit_code_is_told_as_what_it_is(code: int, text: str) -> None:
    assert describe_exit(code) == text
