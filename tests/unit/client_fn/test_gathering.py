"""Tasks that wait for the trainer are trained together if they are alike, and no client fails because of another."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from client_fn import alike, gathering
from client_fn.alike import Keys
from client_fn.code.named import Names
from client_fn.errors import LeaseOver, LimitExceeded, TrainerDied, TrainingFailed, UserCodeFailed
from client_fn.gathering import Gathering, Ready
from client_fn.site import Site
from client_fn.trainer.answers import Answer
from client_fn.trainer.shared import SharedBytes
from client_fn.trainer.trainers import Trainers
from client_fn.training import packets
from client_fn.training.orders import Look, Model, Order, Together, Train, Training

SAME = Keys("job round 1", "job")
OTHER = Keys("job round 2", "job")


class FakeTrainers(Trainers):
    """Notes the seeds of each order's clients, and answers with them."""

    def __init__(self, failure: Exception | None = None, alone: Iterable[int] = (), **told: str) -> None:
        self.groups: list[list[int]] = []
        self.graphs: list[bool] = []
        self.limits: list[float | None] = []
        self.failure = failure
        self.told = told
        self.ends: list[float] = []
        self.has_begun = asyncio.Event()
        self.alone = {*alone}
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def do(
        self,
        names: Names,  # noqa: ARG002 (the interface's argument)
        order: Order | Look | Together,
        inputs: Mapping[str, SharedBytes],
        *,
        on_training: Callable[[], None] | None = None,
        limit_s: float | None = None,
    ) -> Answer:
        assert isinstance(order, Together)
        seeds = [member.seed for member in order.members]
        self.groups.append(seeds)
        self.graphs.append(order.graph)
        self.has_begun.set()
        self.limits.append(limit_s)
        self.ends.append(order.members[0].left_s)
        own = {name for name in inputs if "/state." not in name}
        assert own == {"weights", *(f"{number}/shard" for number in range(len(seeds)))}
        assert len(inputs) < packets.FILES
        if on_training is not None:
            on_training()
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        facts = [{"alone": "its data"} if seed in self.alone else {"seed": seed} for seed in seeds]
        return Answer({"clients": facts, **self.told}, {f"{n}/update": bytes([seed]) for n, seed in enumerate(seeds)})


class Tasks:
    """Tasks of one worker, named by their seeds."""

    def __init__(self, trainers: FakeTrainers, most: int = 4) -> None:
        self.gathering = Gathering(trainers, most, 100)
        self.alone: list[int] = []
        self.begun: list[int] = []

    async def train(
        self,
        seed: int,
        keys: Keys | None = SAME,
        left_s: float = 60.0,
        *,
        fails: bool = False,
        states: int = 0,
        device: str = "cpu",
        at_its_end: Callable[[], object] = lambda: None,
    ) -> Any:
        async def alone() -> Answer:
            self.alone.append(seed)
            await asyncio.sleep(0)
            at_its_end()
            if fails:
                raise TrainingFailed("its own failure")
            return Answer({"seed": seed}, {"update": bytes([seed])})

        file = SharedBytes(b"")
        order = Train(Model(), Training(), seed, device, 0.0)
        inputs = {"weights": file, "shard": file, **{f"state.{number}": file for number in range(states)}}
        begin = lambda: self.begun.append(seed)  # noqa: E731 (short)
        answer = await self.gathering.train(Ready(keys, Names((), ""), order, inputs, lambda: left_s, begin, alone))
        assert answer.files == {"update": bytes([seed])}
        return answer.facts["seed"]


async def test_tasks_that_are_alike_are_trained_together_and_others_are_not() -> None:
    trainers = FakeTrainers()
    tasks = Tasks(trainers)
    keys = [SAME, OTHER, SAME, None, OTHER, SAME]
    found = await asyncio.gather(*(tasks.train(seed, each) for seed, each in enumerate(keys)))
    assert found == [0, 1, 2, 3, 4, 5]
    assert sorted(trainers.groups) == [[0, 2, 5], [1, 4]]
    assert sorted(tasks.begun) == [0, 1, 2, 4, 5]
    assert tasks.alone == [3]


async def test_at_most_so_many_are_trained_together_within_the_shortest_time() -> None:
    trainers = FakeTrainers()
    tasks = Tasks(trainers, most=2)
    await asyncio.gather(*(tasks.train(seed, left_s=10.0 - seed) for seed in range(5)))
    assert trainers.groups == [[0, 1], [2, 3]]
    assert trainers.limits == [9.0, 7.0]
    assert tasks.alone == [4]


async def test_a_task_waits_for_one_that_is_being_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "PREPARING_S", 60.0)
    trainers = FakeTrainers()
    tasks = Tasks(trainers, most=2)
    with tasks.gathering.expecting():
        first = asyncio.create_task(tasks.train(1))
        await asyncio.sleep(4 * gathering.WAIT_S)
        assert not trainers.groups
        second = asyncio.create_task(tasks.train(2))
        await asyncio.gather(first, second)
    assert trainers.groups == [[1, 2]]


@pytest.mark.parametrize(
    ("failure", "sizes"),
    [
        (TrainerDied("it exited"), [4]),
        (TrainingFailed("the model failed"), [4]),
        (OSError(109, "Too many references: cannot splice"), [4]),
        (LeaseOver("", 0.0), [4, 2]),
        (LimitExceeded("the training used 9 MiB"), [4, 2]),
        (UserCodeFailed("the model failed", cause="OutOfMemoryError"), [4, 2]),
        (TrainerDied("it was killed", retryable=True), [4, 2]),
    ],
)
async def test_if_the_program_fails_each_is_trained_alone(failure: Exception, sizes: list[int]) -> None:
    trainers = FakeTrainers(failure)
    tasks = Tasks(trainers)
    found = await asyncio.gather(*(tasks.train(seed, fails=seed == 1) for seed in range(4)), return_exceptions=True)
    assert [found[0], *found[2:]] == [0, 2, 3]
    assert isinstance(found[1], TrainingFailed)
    assert sorted(tasks.alone) == [0, 1, 2, 3]
    # The job's next rounds do not try again, or with half of them if time or memory was too short.
    for _ in range(2):
        await asyncio.gather(*(tasks.train(seed, OTHER) for seed in range(4)))
    assert [len(group) for group in trainers.groups] == sizes
    assert trainers.graphs == [True, False][: len(sizes)]


async def test_fewer_are_trained_together_if_the_trainer_says_so() -> None:
    trainers = FakeTrainers(alone=[2], fewer="the time was over")
    tasks = Tasks(trainers)
    for keys in (SAME, OTHER):
        assert await asyncio.gather(*(tasks.train(seed, keys) for seed in range(4))) == [0, 1, 2, 3]
    assert [len(group) for group in trainers.groups] == [4, 2]
    assert sorted(tasks.alone) == [2, 2, 3]


async def test_no_step_is_recorded_if_the_site_forbids_it_or_a_record_has_failed() -> None:
    trainers = FakeTrainers(unrecorded="it can't be recorded")
    tasks = Tasks(trainers)
    with capture_logs() as logs:
        for keys in (SAME, OTHER, Keys("another job round 1", "another job")):
            await asyncio.gather(*(tasks.train(seed, keys) for seed in range(3)))
    assert trainers.graphs == [True, False, True]
    assert [(line["log_level"], line["reason"]) for line in logs] == [("debug", "it can't be recorded")] * 2
    without = gathering.make(trainers, Site(device="cuda", graphs=False))
    assert without is not None
    tasks.gathering = without
    await asyncio.gather(*(tasks.train(seed) for seed in range(3)))
    assert trainers.graphs[3:] == [False]
    assert gathering.make(trainers, Site()) is None


async def test_on_a_gpu_a_client_without_others_is_trained_in_their_program_for_its_record() -> None:
    trainers = FakeTrainers()
    tasks = Tasks(trainers)
    for seed, device in enumerate(["cuda:0", "cuda", "cpu"]):
        assert await tasks.train(seed, device=device) == seed
    assert (trainers.groups, trainers.ends, tasks.alone) == ([[0], [1]], [60.0, 60.0], [2])


@pytest.mark.parametrize(
    "trainers",
    [
        FakeTrainers(TrainingFailed("the model failed")),
        FakeTrainers(LeaseOver("", 0.0)),
        FakeTrainers(alone=[1]),
        FakeTrainers(alone=[1], fewer="the memory was too small"),
        FakeTrainers(unrecorded="it can't be recorded"),
    ],
)
async def test_if_that_fails_the_job_s_next_ones_are_trained_alone_and_others_together(trainers: FakeTrainers) -> None:
    tasks = Tasks(trainers)
    for seed, keys in enumerate([SAME, OTHER], start=1):
        assert await tasks.train(seed, keys, device="cuda") == seed
    assert trainers.groups == [[1]]
    assert tasks.alone == ([2] if "unrecorded" in trainers.told else [1, 2])
    await asyncio.gather(*(tasks.train(seed, device="cuda") for seed in (3, 4)))
    assert (trainers.groups[1:], trainers.graphs) == ([[3, 4]], [True, False])


async def test_the_program_ends_a_little_before_the_time_is_over() -> None:
    trainers = FakeTrainers()
    for left_s in (60.0, 8.0):
        tasks = Tasks(trainers, most=2)
        await asyncio.gather(*(tasks.train(seed, left_s=left_s) for seed in range(2)))
    assert trainers.limits == [60.0, 8.0]
    assert trainers.ends == [60.0 - gathering.ANSWERS_S, 6.0]


async def test_the_files_of_all_fit_beside_one_packet() -> None:
    trainers = FakeTrainers()
    tasks = Tasks(trainers, most=64)
    # The order's file, the weights, and those of 3 clients: 4 clients would have too many.
    await asyncio.gather(*(tasks.train(seed, states=70) for seed in range(4)))
    assert trainers.groups == [[0, 1, 2]]
    assert tasks.alone == [3]


async def test_a_client_that_must_be_trained_alone_does_not_hold_up_the_others() -> None:
    trainers = FakeTrainers(alone=[0, 2])
    tasks = Tasks(trainers)
    assert await asyncio.gather(*(tasks.train(seed) for seed in range(4))) == [0, 1, 2, 3]
    assert sorted(tasks.alone) == [0, 2]
    await asyncio.gather(*(tasks.train(seed, OTHER) for seed in range(4)))
    assert [len(group) for group in trainers.groups] == [4, 4]


async def test_what_the_trainer_says_of_the_clients_is_checked() -> None:
    answer = Answer({"clients": [{"seed": 1}]}, {})
    assert alike.answers_of(answer, 2) == ["the trainer's answer is not about these clients"] * 2
    assert alike.answers_of(Answer({}, {}), 1) == ["the trainer's answer is not about these clients"]


async def test_a_task_that_is_given_up_takes_no_other_with_it() -> None:
    trainers = FakeTrainers()
    trainers.may_end.clear()
    tasks = Tasks(trainers, most=3)
    running = [asyncio.create_task(tasks.train(seed)) for seed in range(5)]
    await trainers.has_begun.wait()
    assert trainers.groups == [[0, 1, 2]]
    for given_up in (0, 2, 4):
        running[given_up].cancel()
    await asyncio.sleep(0)
    trainers.may_end.set()
    found = await asyncio.gather(*running, return_exceptions=True)
    assert [found[1], found[3]] == [1, 3]
    assert trainers.groups[1:] == [[1, 3]]
    assert all(isinstance(found[given_up], asyncio.CancelledError) for given_up in (0, 2, 4))


async def test_a_task_that_is_given_up_when_it_has_the_turn_passes_it_on() -> None:
    tasks = Tasks(FakeTrainers())
    first = asyncio.create_task(tasks.train(1, None))
    second = asyncio.create_task(tasks.train(2, None))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 2


async def test_the_turn_is_not_passed_to_a_task_that_is_being_given_up() -> None:
    tasks, given_up = Tasks(FakeTrainers()), list[asyncio.Task[Any]]()

    def give_up() -> None:
        given_up[0].cancel()

    first = asyncio.create_task(tasks.train(1, None, at_its_end=give_up))
    given_up.append(asyncio.create_task(tasks.train(2, None)))
    third = asyncio.create_task(tasks.train(3, None))
    assert (await first, await third) == (1, 3)
    assert given_up[0].cancelled()


async def test_a_task_that_is_being_given_up_is_not_taken_along() -> None:
    trainers = FakeTrainers()
    tasks, running = Tasks(trainers, most=2), list[asyncio.Task[Any]]()

    def give_up_soon() -> None:
        # Before the next task has its turn: the one that is given up has not run by then.
        asyncio.get_running_loop().call_soon(running[2].cancel)

    running.append(asyncio.create_task(tasks.train(0, None, at_its_end=give_up_soon)))
    running += [asyncio.create_task(tasks.train(seed)) for seed in (1, 2, 3)]
    found = await asyncio.gather(*running, return_exceptions=True)
    assert trainers.groups == [[1, 3]]
    assert found[:2] + found[3:] == [0, 1, 3]
    assert isinstance(found[2], asyncio.CancelledError)
