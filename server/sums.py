"""The sums over held-out samples that an update holds beside the model's tensors, checked and added up exactly. Pure.

A tensor `eval.<metric>.<state>` is one state of a metric. Clients' states of the same layout are added: counts as
integers, other numbers without rounding, so the totals have the same bytes for every order of updates.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.messages import tensors as payload
from broker.messages.tensors import Array, Layout, Tensors
from broker.messages.update import UpdateHeader
from server.errors import Refused

PREFIX: Final = "eval."
"""The names of sums begin with this."""

MAX_TENSORS: Final = 256

MAX_BYTES: Final = 4 << 20
"""All sums of an update. 1,000 score bins of 100 classes have 3.2 MB."""

MAX_FLOAT_BYTES: Final = 256 << 10
"""Those of them that are no integers: an exact total needs 25 times as much memory."""

MAX_COUNT: Final = 2**40
"""Largest integer: the totals of 8 million clients fit into int64."""

MAX_FLOAT: Final = 2.0**256
"""Largest magnitude of other numbers."""

_NAME: Final = re.compile(r"eval\.[A-Za-z0-9_-]{1,64}\.[A-Za-z0-9_]{1,64}")

_KIND: Final = "outputs"
"""A state that says what kind of outputs a metric was measured with. Only clients with the same one are added."""

_FRACTION_BITS: Final = 1126
"""Every float64 is a whole multiple of 2^-1126: the smallest is 2^-1074, and a mantissa has 53 bits."""

_MANTISSA_BITS: Final = 53


def split(tensors: Tensors, model: Collection[str]) -> tuple[Tensors, Tensors]:
    """Return an update's tensors without its sums, and the sums.

    Args:
        tensors: the update's tensors.
        model: names that are the model's, whatever they begin with.
    """
    found = {name for name in tensors if name.startswith(PREFIX) and name not in model}
    rest = {name: tensor for name, tensor in tensors.items() if name not in found}
    return rest, {name: tensor for name, tensor in tensors.items() if name in found}


def check(sums: Tensors, header: UpdateHeader, most: int) -> None:
    """Check an update's sums, and what it says about them.

    Args:
        sums: its tensors whose names begin with `eval.`.
        header: its metadata.
        most: the largest number of samples that the client can have.

    Raises:
        Refused: they can't be added.
    """
    if not 0 <= header.judged <= most or bool(sums) > bool(header.judged):
        raise Refused("samples", f"it claims to have judged {header.judged} samples, 0 to {most} are possible")
    if len(sums) > MAX_TENSORS or sum(tensor.nbytes for tensor in sums.values()) > MAX_BYTES:
        raise Refused("layout", f"its sums are larger than {MAX_BYTES >> 20} MiB or {MAX_TENSORS} tensors")
    for name, tensor in sums.items():
        if not _NAME.fullmatch(name):
            raise Refused("layout", f"{name[:100]!r} is no name of a sum: expected eval.<metric>.<state>")
        if tensor.dtype not in (np.int64, np.float64, np.float32):
            raise Refused("layout", f"{name} is {tensor.dtype}, a sum is int64, float64 or float32")
        _check_values(name, tensor)
    if sum(tensor.nbytes for tensor in sums.values() if tensor.dtype != np.int64) > MAX_FLOAT_BYTES:
        raise Refused("layout", f"its sums that are no integers are larger than {MAX_FLOAT_BYTES >> 10} KiB")


def _check_values(name: str, tensor: Array) -> None:
    if not tensor.size:
        return
    with np.errstate(invalid="ignore"):
        low, high = float(tensor.min()), float(tensor.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Refused("finite", f"{name} holds NaN or infinity")
    if tensor.dtype == np.int64 and not 0 <= low <= high <= MAX_COUNT:
        raise Refused("magnitude", f"{name} counts from {low:g} to {high:g}, 0 to 2^40 are possible")
    if max(-low, high) > MAX_FLOAT:
        raise Refused("magnitude", f"{name} reaches {max(-low, high):g}, at most 2^256 is accepted")


_Layout = tuple[tuple[str, tuple[str, tuple[int, ...]]], ...]


@dataclass
class _Group:
    """The total of the clients whose states of a metric have the same layout."""

    clients: set[str] = field(default_factory=set)
    totals: dict[str, NDArray[Any]] = field(default_factory=dict)


class SumTotals:
    """Running totals of the clients' sums, by metric. Memory is independent of the number of honest clients."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[tuple[_Layout, bytes], _Group]] = {}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of which there is a sum, sorted."""
        return tuple(sorted(self._groups))

    def add(self, client: str, sums: Tensors) -> None:
        """Add a client's sums.

        Args:
            client: the client's id.
            sums: checked by `check`.
        """
        by_metric: dict[str, Tensors] = {}
        for name, tensor in sums.items():
            metric, _, state = name.removeprefix(PREFIX).partition(".")
            by_metric.setdefault(metric, {})[state] = tensor
        for metric, states in by_metric.items():
            kind = states[_KIND].tobytes() if _KIND in states else b""
            layout = tuple(sorted(payload.layout(states).items()))
            group = self._groups.setdefault(metric, {}).setdefault((layout, kind), _Group())
            group.clients.add(client)
            for state, tensor in states.items():
                value = _exact(tensor)
                group.totals[state] = group.totals[state] + value if state in group.totals else value

    def clients(self, metric: str) -> frozenset[str]:
        """Ids of the clients whose sums of a metric are in its total: the largest group of one layout and kind."""
        return frozenset(self._largest(metric)[1].clients) if metric in self._groups else frozenset()

    def totals(self) -> Tensors:
        """The totals as `<metric>.<state>`: int64, and float64 rounded once."""
        totals: Tensors = {}
        for metric in self.metrics:
            layout, group = self._largest(metric)
            for state, (dtype, shape) in layout.items():
                totals[f"{metric}.{state}"] = _rounded(group.totals[state], dtype).reshape(shape)
        return totals

    def _largest(self, metric: str) -> tuple[Layout, _Group]:
        """The group with the most clients; of equally large ones the one whose layout is sorted first."""
        groups = self._groups[metric]
        key = min(groups, key=lambda each: (-len(groups[each].clients), each))
        return dict(key[0]), groups[key]


def _exact(tensor: Array) -> NDArray[Any]:
    """Return the flat numbers of a tensor; floats as whole multiples of 2^-1126, which Python's integers hold."""
    flat = tensor.reshape(-1)
    if flat.dtype == np.int64:
        return flat.copy()
    mantissas, exponents = np.frexp(flat.astype(np.float64))
    whole = (mantissas * 2.0**_MANTISSA_BITS).astype(np.int64).astype(object)
    return np.asarray(whole << (exponents.astype(object) + (_FRACTION_BITS - _MANTISSA_BITS)), dtype=object)


def _rounded(total: NDArray[Any], dtype: str) -> Array:
    if dtype == "I64":
        return total
    # The division of two integers in Python is correctly rounded.
    return np.array([number / (1 << _FRACTION_BITS) for number in total], np.float64)


def own_values(headers: Mapping[str, UpdateHeader], metric: str) -> dict[str, tuple[int, float]]:
    """Return what clients measured for themselves: held-out samples and value, by client id.

    Args:
        headers: metadata of updates, by client id.
        metric: the metric.
    """
    return {
        client: (header.judged, header.evaluation[metric])
        for client, header in sorted(headers.items())
        if header.judged and metric in header.evaluation
    }
