"""A system that was off for longer than a round's deadline goes on with the same cohort to the same model."""

import asyncio
import time

import broker
from broker.base import Broker
from broker.messages import progress
from broker.messages.round import RoundTask
from fedkeeper.sdk import Client
from server.renewal import renew_open_rounds
from server.service import serve
from tests.support import fakes
from tests.support.fakes import FakeLearning, Fleet, running, soon
from tests.support.server_crashes import event_ids

OFF_S = 5000.0
"""Longer than the deadline of the fake job."""


async def test_an_open_round_goes_on_with_the_clients_that_have_not_answered(memory_url: str) -> None:
    is_on, job = asyncio.Event(), fakes.job(stop={"rounds": 2})

    async def only_two_answer_before(bus: Broker, task: RoundTask) -> None:
        # The others end with the system.
        if is_on.is_set() or len(fleet.tasks) <= 2:
            await fakes.answer(bus, task)

    async with broker.connect(memory_url) as bus, asyncio.timeout(60):
        sdk, fleet = Client(bus), Fleet(bus, only_two_answer_before)
        await sdk.register(fakes.clients(4))
        async with running(Fleet(bus).serve(), serve(bus, FakeLearning())):
            undisturbed = await sdk.submit(job)
            await event_ids(sdk, undisturbed)
        async with running(fleet.serve(), serve(bus, FakeLearning())):
            stopped = await sdk.submit(job)
            async for message in sdk.watch(stopped):
                if isinstance(message.event, progress.UpdateCounted) and message.event.counted == 2:
                    break
            await soon(lambda: len(fleet.tasks) == 4)

        await renew_open_rounds(bus, lambda: time.time() + OFF_S)
        is_on.set()
        async with running(fleet.serve(), serve(bus, FakeLearning(), clock=lambda: time.time() + OFF_S)):
            events = [message.event async for message in sdk.watch(stopped)]
        first, second = [(await sdk.job(name)).model for name in (undisturbed, stopped)]

    answered = {task.client_id for task in fleet.tasks[:2]}
    assert [task.client_id in answered for task in fleet.tasks[4:6]] == [False, False], "who had answered is not asked"
    assert [event.round for event in events if isinstance(event, progress.RoundCompleted)] == [1, 2]
    assert [event.resumed for event in events if isinstance(event, progress.RoundOpened)] == [False, True, False]
    assert first is not None
    assert second is not None
    assert first.sha256 == second.sha256
