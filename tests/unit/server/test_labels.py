"""Which clients a table of labels matches."""

import pytest

from broker.messages.register import ClientRecord
from server import labels

BOARD = ClientRecord(id="ward-7", platform="board-7", labels={"data": "xray"})
LABELLED = ClientRecord(id="ward-8", platform="cluster", labels={"site": "north", "platform": "claimed", "id": "other"})


@pytest.mark.parametrize(
    ("where", "client", "expected"),
    [
        ({}, BOARD, True),
        ({"data": "xray", "platform": "board-7", "id": "ward-7"}, BOARD, True),
        ({"data": "xray", "id": "ward-8"}, BOARD, False),
        ({"region": ""}, BOARD, False),
        ({"site": "board-7"}, BOARD, True),
        ({"site": "board-8"}, BOARD, False),
        ({"site": "north"}, LABELLED, True),
        ({"site": "cluster"}, LABELLED, False),
        ({"platform": "claimed"}, LABELLED, False),
        ({"id": "other"}, LABELLED, False),
    ],
)
def test_a_clients_site_is_its_platform_unless_it_has_a_label_site(
    where: dict[str, str],
    client: ClientRecord,
    expected: bool,  # noqa: FBT001 (pytest passes it by name)
) -> None:
    assert labels.matches(where, client) is expected
