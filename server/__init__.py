"""Decides: jobs, cohorts, rounds, aggregation, evaluation. Needs a broker and a `Learning`, and no torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.learning import Initial, Judgement, Learning
    from server.service import serve

__all__ = ["Initial", "Judgement", "Learning", "serve"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What the package offers, when it is wanted: every program knows its errors, only a server needs numpy."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from server import learning, service

        return getattr(service if name == "serve" else learning, name)
