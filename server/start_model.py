"""Starts a job from an earlier model: which of its tensors are taken. Pure."""

from collections.abc import Collection
from typing import Final

from broker.messages import tensors
from broker.messages.reports import StartReport
from broker.messages.tensors import Layout, Tensors
from server.errors import LearningFailed

_SHOWN: Final = 3
"""So many tensors of each model are in the error when none matches."""


def take(initial: Tensors, earlier: Tensors, source: str, own: Collection[str] = ()) -> tuple[Tensors, StartReport]:
    """Return the initial model with the tensors of an earlier one that have the same name, shape and dtype.

    Args:
        initial: every tensor of the model, as it was constructed.
        earlier: every tensor of the earlier model.
        source: what the job calls the earlier model.
        own: names of tensors that stay as they were constructed.

    Raises:
        LearningFailed: no tensor matches.
    """
    wanted, found = tensors.layout(initial), tensors.layout(earlier)
    both = [name for name in wanted if name in found and name not in own]
    report = StartReport(
        source=source,
        matched=tuple(name for name in both if wanted[name] == found[name]),
        reshaped=tuple(name for name in both if wanted[name] != found[name]),
        missing=tuple(name for name in wanted if name not in found and name not in own),
        unused=tuple(name for name in found if name not in wanted or name in own),
    )
    if not report.matched:
        has, wants = _shown(found), _shown(wanted)
        reason = "no tensor of it has the name, shape and dtype of one of the model's"
        raise LearningFailed(f"model.from = {source!r}: {reason}: it has {has}; the model has {wants}")
    return {**initial, **{name: earlier[name] for name in report.matched}}, report


def _shown(layout: Layout) -> str:
    """Return some of a model's tensors as a text."""
    some = [f"{name} {dtype} {shape}" for name, (dtype, shape) in list(layout.items())[:_SHOWN]]
    return ", ".join(some) + (f" and {len(layout) - _SHOWN} more" if len(layout) > _SHOWN else "") or "no tensors"
