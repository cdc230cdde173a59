"""A client's flood of bad updates is one event with a count."""

from server.refusals import SHOWN, Refusals


def test_the_first_refusals_of_each_client_are_announced_and_the_others_counted() -> None:
    refusals = Refusals()
    announced = [refusals.add("c-1") for _ in range(SHOWN + 3)]
    assert announced == [True] * SHOWN + [False] * 3
    assert refusals.add("c-2")
    assert refusals.rest() == {"c-1": 3}
