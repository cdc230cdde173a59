"""The last few values of a kind."""

from client_fn import cache


def test_those_used_longest_ago_are_forgotten() -> None:
    kept: dict[str, int] = {}
    for number, key in enumerate("abca"):
        cache.keep(kept, key, number, limit=2)
    assert kept == {"c": 2, "a": 3}


def test_a_value_that_is_used_again_is_the_newest() -> None:
    kept = {"a": 1, "b": 2}
    cache.keep(kept, "a", 1, limit=2)
    assert list(kept) == ["b", "a"]
