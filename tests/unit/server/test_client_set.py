"""A set of a round's clients."""

import numpy as np
import pytest

from server.client_set import ClientSet


def test_it_has_what_was_put_into_it_and_leaves_the_set_before_as_it_was() -> None:
    everyone = ClientSet.of("abc")
    before = everyone.first(1)
    after = before.having("c").having("c")
    assert (list(before), list(after), len(after)) == (["a"], ["a", "c"], 2)
    assert "c" in after
    assert "b" not in after
    assert "a stranger" not in everyone
    assert not everyone.first(0)


def test_a_client_of_another_round_can_not_be_put_into_it() -> None:
    with pytest.raises(KeyError):
        ClientSet.of("abc").having("d")


def test_unions_intersections_and_differences_are_those_of_frozensets() -> None:
    rng = np.random.default_rng(3)
    clients = [f"client-{i}" for i in range(70)]
    places = ClientSet.of(clients).places
    for _ in range(200):
        first, second = (frozenset(rng.choice(clients, rng.integers(70))) for _ in range(2))
        one, other = (ClientSet(places, sum(1 << places[client] for client in each)) for each in (first, second))
        assert frozenset(one) == first
        assert frozenset(one | other) == first | second
        assert frozenset(one & other) == first & second
        assert frozenset(one - other) == first - second
        assert len(one - other) == len(first - second)
