from broker.families import FAMILIES
from broker.nats.old_store import STREAMS, is_old_store

OLD = {name: tuple(subjects) for name, subjects in STREAMS.items()}


def test_all_streams_of_0_1_are_an_old_store() -> None:
    assert is_old_store(OLD)
    assert is_old_store(OLD | {"PLANT": ("fl.plant",)})


def test_other_streams_are_no_old_store() -> None:
    assert not is_old_store({})
    assert not is_old_store({f"FEDKEEPER_{family.name}": family.filters for family in FAMILIES})
    for name, kept in OLD.items():
        assert not is_old_store({other: subjects for other, subjects in OLD.items() if other != name})
        assert not is_old_store(OLD | {name: ("plant.*",)})
        assert not is_old_store(OLD | {name: (*kept, "plant.*")})
