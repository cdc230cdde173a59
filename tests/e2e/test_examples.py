"""The examples that need no further libraries. `make examples` runs all of them."""

from pathlib import Path

import pytest

from examples import run

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.mark.parametrize("name", run.LIGHT)
async def test_an_example_learns_what_one_machine_would_learn(name: str, tmp_path: Path) -> None:
    outcome = await run.run(name, tmp_path)
    assert outcome.passes, outcome


def test_every_example_is_run() -> None:
    folders = {file.parent.name for file in Path(run.__file__).parent.glob("*/job.toml")}
    assert folders == {*run.LIGHT, *run.HEAVY}
