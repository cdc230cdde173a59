"""What is remembered from one start of a service to the next."""

import asyncio

from broker.support.memory import kept, remembered


def test_without_a_block_nothing_is_remembered() -> None:
    assert remembered("key", list) is not remembered("key", list)


async def test_what_is_made_in_a_block_is_found_again_in_its_tasks_until_it_is_forgotten() -> None:
    async def find() -> list[object]:
        return remembered("key", list)

    with kept() as memory:
        first = await find()
        assert await asyncio.create_task(find(), name="find") is first
        assert remembered("another key", list) is not first
        memory.clear()
        assert await find() is not first
    assert remembered("key", list) is not first
