"""Where a client's personal layers lie follows from its register entry alone."""

import pytest

from broker.messages import personal


@pytest.mark.parametrize(
    ("data_loc", "state_loc", "folder"),
    [
        ("/data/c1/shard.safetensors", "", "/data/c1/state"),
        ("file:///data/c1/shard.safetensors", "", "file:///data/c1/state"),
        ("s3://bucket/c1/shard.safetensors", "", "s3://bucket/c1/state"),
        ("/data/images/", "", "/data/state"),
        ("shard.safetensors", "", "state"),
        ("https://host/shard.safetensors", "gs://bucket/layers/", "gs://bucket/layers"),
        ("", "/layers", "/layers"),
        ("https://host/shard.safetensors", "", ""),
        ("http://host/shard.safetensors", "", ""),
        ("/data/shard", "https://host/layers", ""),
        ("", "", ""),
    ],
)
def test_they_lie_at_the_state_loc_or_beside_the_data(data_loc: str, state_loc: str, folder: str) -> None:
    assert personal.folder_of(data_loc, state_loc) == folder
