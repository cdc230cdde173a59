"""What fields of jobs and their values are called."""

from fedkeeper.display import field_values


def test_fields_have_short_names_that_tell_them_apart() -> None:
    fields = ["training.learning_rate", "cohort.seed", "data.seed", "seed", "strategy.name", "training.schedule.name"]
    assert list(field_values.short_names(fields).values()) == [
        "learning_rate",
        "cohort.seed",
        "data.seed",
        "seed",
        "strategy",
        "schedule",
    ]
    assert field_values.short_names(["stop.rounds"], ["rounds"]) == {"stop.rounds": "stop.rounds"}


def test_a_combination_in_words() -> None:
    values = {"training.learning_rate": 0.1, "training.optimizer": "sgd", "training.drop_last": True, "a.b": None}
    assert field_values.label(values) == "learning_rate 0.1, optimizer sgd, drop_last true, b -"
    assert field_values.value_text("x" * 99) == "x" * 23 + "…"
