"""A run that somebody interrupts: it ends after its open round, or at once."""

import signal
from dataclasses import dataclass

from broker.messages.progress import FINAL_EVENTS, JobAccepted, Progress, RoundCompleted, RoundFailed, RoundOpened


@dataclass
class Interruption:
    """Knows the open round of a job, and whether the run is to end after it.

    Attributes:
        round: the open round; 0: none is open.
        done: number of completed rounds.
        total: number of rounds that the job is for; None: not known yet.
        is_asked: whether the run is to end after the open round.
        is_over: whether that round is over.
        is_told: whether the run is to end at once.
        has_ended: whether the job has ended: then its results are being saved.
        is_submitted: whether the broker may have the job, also before the server has accepted it.
        stopped: how a person goes on with the run that was interrupted; empty: nothing is left of it.
    """

    round: int = 0
    done: int = 0
    total: int | None = None
    is_asked: bool = False
    is_over: bool = False
    is_told: bool = False
    has_ended: bool = False
    is_submitted: bool = False
    stopped: str = ""

    def receive(self, number: int) -> bool:
        """Note a signal, and return whether the run may go on to the end of its open round, or save its results.

        Only Ctrl-C leaves it that time, and only the first one: who closes a terminal or ends a machine does not wait.

        Args:
            number: the signal.
        """
        if number == signal.SIGINT and (self.round or self.has_ended) and not self.is_asked:
            self.is_asked = True
            return True
        self.is_told = True
        return False

    @property
    def answer(self) -> str:
        """What a person is told whose first interrupt lets the run go on for a while."""
        then = "the job has ended; saving its results" if self.has_ended else f"ending after round {self.round}"
        return f"{then}; Ctrl-C again ends at once"

    def update(self, progress: Progress) -> bool:
        """Process an event of the job; return whether the round is over after which the run is to end."""
        match progress.event:
            case JobAccepted(job=job):
                self.total = job.stop.rounds
            case RoundOpened(round=number):
                self.round = number
            case RoundCompleted() | RoundFailed():
                self.done += isinstance(progress.event, RoundCompleted)
                self.round = 0
                self.is_over = self.is_asked
            case event if isinstance(event, FINAL_EVENTS):
                self.round, self.is_over, self.has_ended = 0, False, True
            case _:
                pass
        return self.is_over
