"""The names of what torch and FedKeeper have, without importing torch: that takes seconds."""

import ast
import importlib.util
from pathlib import Path
from typing import Final

METRICS: Final = (
    *("accuracy", "mae", "mse", "rmse", "perplexity"),
    *("f1", "precision", "recall", "specificity", "iou", "auroc", "average_precision", "r2", "mape"),
)
"""The metrics that need no class of the user's. `top_<k>` is one more."""

NEED_OBJECTS: Final = frozenset(
    {"ChainedScheduler", "LambdaLR", "LRScheduler", "MultiplicativeLR", "ReduceLROnPlateau", "SequentialLR"}
)
"""Schedulers that need other objects, or a metric for each step: a learner's own `fit` can use them."""


def optimizers() -> tuple[str, ...]:
    """Return the classes of `torch.optim` in small letters; none if this Python has no torch."""
    return tuple(sorted(name.lower() for name in _classes("optim/__init__.py") if name != "Optimizer"))


def schedulers() -> tuple[str, ...]:
    """Return the usable classes of `torch.optim.lr_scheduler` in small letters; none if this Python has no torch."""
    return tuple(sorted(name.lower() for name in _classes("optim/lr_scheduler.py") if name not in NEED_OBJECTS))


def _classes(file: str) -> list[str]:
    """Return the classes that a file of torch names in its `__all__`."""
    torch = importlib.util.find_spec("torch")
    folders = torch.submodule_search_locations if torch else None
    for folder in folders or ():
        for statement in ast.parse((Path(folder) / file).read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
                return [name for name in ast.literal_eval(statement.value) if name[0].isupper()]
    return []
