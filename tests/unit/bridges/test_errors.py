"""Which errors of a bridge another attempt may overcome."""

from typing import Final

import pytest

from bridges import errors
from bridges.errors import (
    BadSettings,
    BridgeError,
    InvocationFailed,
    NotStarted,
    PlatformAway,
    PlatformDenied,
    PlatformFailed,
    SecretMissing,
    as_failed_invocation,
)

AGAIN: Final[list[tuple[BridgeError, bool]]] = [
    (PlatformAway("p", "create c-1", "busy"), True),
    (PlatformFailed("p", "create c-1", "no room"), True),
    (PlatformDenied("p", "http://here", "check the password"), False),
    (SecretMissing("key", "put it there"), False),
    (BadSettings("gateway", "x", "not a URL"), False),
    (NotStarted("429"), True),
    (InvocationFailed("no such model", retryable=False), False),
]


@pytest.mark.parametrize(("error", "retryable"), AGAIN, ids=[type(error).__name__ for error, _ in AGAIN])
def test_an_error_that_only_a_person_can_mend_is_not_tried_again(error: BridgeError, *, retryable: bool) -> None:
    failed = as_failed_invocation(error, "404, and ")
    assert (failed.retryable, failed.reason) == (retryable, f"404, and {error}")


def test_every_error_of_the_package_is_classified() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BridgeError)}
    invocations = {kind for kind in kinds if issubclass(kind, InvocationFailed)}
    assert errors.RETRYABLE.keys() == kinds - invocations - {BridgeError}


def test_an_error_of_another_distribution_counts_as_its_base() -> None:
    class Revoked(PlatformDenied):
        pass

    assert not as_failed_invocation(Revoked("p", "here", "renew the token")).retryable
