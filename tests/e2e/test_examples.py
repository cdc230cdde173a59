"""The examples that need no further libraries, for a few rounds. `make examples` runs all of them to their end."""

from pathlib import Path

import pytest

from examples import run

pytestmark = [pytest.mark.slow, pytest.mark.torch]


@pytest.mark.parametrize("name", run.LIGHT)
async def test_an_example_has_learned_something_after_a_few_rounds(name: str, tmp_path: Path) -> None:
    reached, trivial = await run.smoke(name, tmp_path)
    assert reached > trivial


def test_every_example_is_run() -> None:
    folders = {file.parent.name for file in Path(run.__file__).parent.glob("*/job.toml")}
    assert folders == {*run.LIGHT, *run.HEAVY}
