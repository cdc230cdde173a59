"""How to install what is missing. FedKeeper is on no package index, so no sentence lets pip look for it there."""


def remedy(extra: str) -> str:
    """Return the command that installs one of FedKeeper's extras, from a checkout or from the wheel.

    Args:
        extra: a name in `[project.optional-dependencies]` of pyproject.toml.
    """
    return f"pip install '.[{extra}]' in a checkout of FedKeeper, or pip install 'WHEEL[{extra}]' with its wheel's path"
