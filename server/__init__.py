"""Decides: jobs, cohorts, rounds, aggregation, evaluation. Needs a broker and a `Learning`, and no torch."""

from server.learning import Initial, Judgement, Learning
from server.service import serve

__all__ = ["Initial", "Judgement", "Learning", "serve"]
