from broker.support.backoff import delay_s


def longest(attempt: int) -> float:
    return delay_s(attempt, lambda _, most: most, first_s=0.05, most_s=2.0)


def test_the_bound_doubles_up_to_the_cap() -> None:
    assert [longest(attempt) for attempt in range(8)] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert longest(10_000) == 2.0


def test_the_delay_may_be_any_time_below_the_bound() -> None:
    assert delay_s(3, lambda least, _: least, first_s=0.05, most_s=2.0) == 0.0
