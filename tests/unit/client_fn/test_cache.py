"""The bounded cache."""

from client_fn import cache


def test_the_least_recently_used_values_are_evicted() -> None:
    cached: dict[str, int] = {}
    for number, key in enumerate("abca"):
        cache.keep(cached, key, number, limit=2)
    assert cached == {"c": 2, "a": 3}


def test_a_value_that_is_kept_again_is_the_newest() -> None:
    cached = {"a": 1, "b": 2}
    cache.keep(cached, "a", 1, limit=2)
    assert list(cached) == ["b", "a"]
