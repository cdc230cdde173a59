"""Personal layers: tensors of a model that never leave a client (FedPer, arXiv:1912.00818; FedBN, arXiv:2102.07623).

A `Part` of a module shows some of its tensors and hides the others. Whatever goes to the server is made of the shared
part alone.
"""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from torch import Tensor, nn

from client_fn.errors import BadModel, TrainingFailed
from client_fn.training import tensors
from client_fn.training.fit import states_of_optimizers
from client_fn.training.model_tensors import ModelTensors
from client_fn.training.orders import PERSONAL
from client_fn.training.packets import Content

_BESIDE: Final = "optimizer/"
"""Begins the names of the optimizers' tensors in the client's file. No attribute of a module has such a name."""

_SHOWN: Final = 10


class Part(nn.Module):
    """Some of a module's tensors, under their own names. It shares the module's memory and can't be called.

    Args:
        module: the whole module.
        shows: tells by its name whether a tensor belongs to this part.
    """

    def __init__(self, module: nn.Module, shows: Callable[[str], bool]) -> None:
        super().__init__()
        # In a tuple: torch would register it as a child, and its names would get a prefix.
        self._whole = (module,)
        self._shows = shows

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of this part, as `nn.Module.named_parameters` does."""
        return (pair for pair in self._whole[0].named_parameters(*args, **options) if self._shows(pair[0]))

    def named_buffers(self, *args: Any, **options: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers of this part, as `nn.Module.named_buffers` does."""
        return (pair for pair in self._whole[0].named_buffers(*args, **options) if self._shows(pair[0]))

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the parameters and persistent buffers of this part, as `nn.Module.state_dict` does."""
        return {name: value for name, value in self._whole[0].state_dict(*args, **options).items() if self._shows(name)}


class SharedTensors(ModelTensors):
    """The tensors of a model that are sent.

    Args:
        held: all tensors of the model.
        personal: names of those that are not sent.
    """

    def __init__(self, held: ModelTensors, personal: frozenset[str]) -> None:
        self.model, self.module = held.model, held.module
        self._held = held
        self._personal = personal

    def all(self) -> dict[str, Tensor]:
        """Implements `ModelTensors.all`."""
        return {name: tensor for name, tensor in self._held.all().items() if name not in self._personal}

    def load(self, named: Mapping[str, Tensor]) -> None:
        """Implements `ModelTensors.load`: the personal ones stay as they are."""
        _check(self.all(), named)
        self._held.load({**self._held.all(), **named})

    def frozen(self, base: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Implements `ModelTensors.frozen`."""
        return tuple(name for name in self._held.frozen(base) if name not in self._personal)

    def buffers(self) -> tuple[str, ...]:
        """Implements `ModelTensors.buffers`."""
        return tuple(name for name in self._held.buffers() if name not in self._personal)


class PersonalLayers:
    """The personal layers of a model that is built, trained or evaluated. A model may have none.

    Args:
        held: all tensors of the model.
        patterns: a job's `model.personal`.

    Attributes:
        names: of the personal tensors, in the model's order.
        shared: the tensors that are sent.

    Raises:
        BadModel: a pattern matches no tensor, nothing that is trained is left to send, or a personal tensor is also
            part of a layer that is sent (tied weights).
    """

    def __init__(self, held: ModelTensors, patterns: tuple[str, ...]) -> None:
        self.names = names_of(held, patterns)
        self._personal = frozenset(self.names)
        self.shared = SharedTensors(held, self._personal) if patterns else held
        self._held = held
        self._start = self._own()

    def part(self, model: Any) -> Any:
        """Return what a strategy may see of the model: of a module with personal layers, the other ones.

        Args:
            model: the model.
        """
        if not (self.names and isinstance(model, nn.Module)):
            return model
        return Part(model, lambda name: name not in self._personal)

    def load(self, inputs: Mapping[str, Content]) -> Mapping[str, Content]:
        """Overwrite the personal tensors with those in the client's file, if it has one.

        Args:
            inputs: files by name.

        Returns:
            The files, and those of the optimizers' states that lie beside the tensors.

        Raises:
            BadModel: the file has other tensors than the model's personal ones.
        """
        if not self.names or PERSONAL not in inputs:
            return inputs
        stored = tensors.from_bytes(inputs[PERSONAL])
        states: dict[str, dict[str, Tensor]] = {}
        for full_name in [name for name in stored if name.startswith(_BESIDE)]:
            file, _, name = full_name.removeprefix(_BESIDE).partition("/")
            states.setdefault(file, {})[name] = stored.pop(full_name)
        try:
            _check(self._own(), stored)
        except BadModel as exc:
            raise BadModel(f"the client's file of personal layers: {exc.sentence}") from exc
        self._held.load({**self._held.all(), **stored})
        return {**inputs, **{file: tensors.to_bytes(state) for file, state in states.items()}}

    def save(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return a training's files with the personal tensors. The optimizers' whole states lie beside them.

        They are not split: what some optimizers keep for one parameter was computed from all of them (LBFGS).

        Args:
            files: files by name.

        Raises:
            TrainingFailed: the training has changed the names, shapes or dtypes of the personal tensors.
        """
        if not self.names:
            return dict(files)
        trained = self._own()
        if differences := tensors.compare(self._start, trained):
            raise TrainingFailed(f"the training must keep the model's personal tensors, now these are {differences}")
        states = states_of_optimizers(files)
        beside = {
            f"{_BESIDE}{file}/{name}": tensor
            for file, content in states.items()
            for name, tensor in tensors.from_bytes(content).items()
        }
        rest = {file: content for file, content in files.items() if file not in states}
        return {**rest, PERSONAL: tensors.to_bytes({**trained, **beside})}

    def _own(self) -> dict[str, Tensor]:
        if not self.names:
            return {}
        return {name: tensor for name, tensor in self._held.all().items() if name in self._personal}


def names_of(held: ModelTensors, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the tensors that never leave a client, in the model's order.

    Args:
        held: all tensors of the model.
        patterns: a job's `model.personal`, patterns of names as Python's `fnmatch` has them.

    Raises:
        BadModel: as `PersonalLayers`.
    """
    if not patterns:
        return ()
    firsts, module = tuple(held.all()), held.module
    # A tensor with several names (tied weights) is sent under the first, and a pattern may match another one.
    every = firsts if module is None else tuple(name for name, _ in _with_ties(module))
    personal = frozenset(name for name in every if _matches(name, patterns))
    if unused := [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in every)]:
        known = ", ".join(every[:_SHOWN]) + (", ..." if len(every) > _SHOWN else "")
        raise BadModel(f"model.personal: {', '.join(map(repr, unused))} matches no tensor of the model; it has {known}")
    trained = every if module is None else [name for name, each in module.named_parameters() if each.requires_grad]
    if personal.issuperset(trained):
        raise BadModel("model.personal: it matches every trained parameter, so nothing would be learned together")
    if module is not None:
        _check_ties(module, personal)
    return tuple(name for name in firsts if name in personal)


def _check(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    if differences := tensors.compare(expected, given):
        raise BadModel(f"not this model's tensors; {differences}")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_ties(module: nn.Module, personal: frozenset[str]) -> None:
    """Raise BadModel if a tensor has a personal and another name: under the other one it would be sent."""
    named: dict[int, str] = {}
    for name, tensor in _with_ties(module):
        first = named.setdefault(id(tensor), name)
        if (name in personal) != (first in personal):
            inner, outer = (name, first) if name in personal else (first, name)
            raise BadModel(
                f"model.personal: {inner} and {outer} are the same tensor (tied weights), so both or neither must match"
            )


def _with_ties(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor under all its names."""
    return (pair for pair in module.state_dict(keep_vars=True).items() if isinstance(pair[1], Tensor))
