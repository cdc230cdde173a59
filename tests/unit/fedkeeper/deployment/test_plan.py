"""The steps that a deployment plans, and above all the steps that it must not plan."""

import msgspec
import pytest

from broker.messages.function import Deployed, Function
from broker.messages.register import ClientRecord
from fedkeeper.deployment.plan import Action, DesiredClient, Step, plan, register_entry, summary


def desired(number: int, platform: str = "openfaas", **changes: str) -> DesiredClient:
    name = f"client-{number}"
    record = ClientRecord(id=name, platform=platform, function=name, labels={"fabric": "dev"}, data_loc="file:///x")
    return DesiredClient(Function(name=name, fabric="dev", **changes), record)  # type: ignore[arg-type]


def deployed(client: DesiredClient) -> Deployed:
    function = client.function
    return Deployed(name=function.name, fabric=function.fabric, digest=function.digest, url=f"at/{function.name}")


def registered(client: DesiredClient) -> ClientRecord:
    return msgspec.structs.replace(client.record, url=f"at/{client.function.name}")


def planned(
    clients: list[DesiredClient], existing: list[DesiredClient], register: list[ClientRecord]
) -> list[list[tuple[str, str]]]:
    functions: dict[str, list[Deployed]] = {}
    for client in existing:
        functions.setdefault(client.record.platform, []).append(deployed(client))
    steps = plan(clients, functions, register, fabric="dev")
    return [[(step.action, step.client) for step in client_steps] for client_steps in steps]


def test_a_new_client_is_created_and_then_registered() -> None:
    assert planned([desired(1)], [], []) == [[("create", "client-1"), ("register", "client-1")]]


def test_a_client_without_a_difference_has_no_steps() -> None:
    both = [desired(1), desired(2, "gcf")]
    assert planned(both, both, [registered(client) for client in both]) == []


def test_an_edit_changes_only_what_differs() -> None:
    old = [desired(1), desired(2)]
    new = [desired(1), desired(2, image="client:2")]
    assert planned(new, old, [registered(client) for client in old]) == [[("update", "client-2")]]


def test_an_edit_of_the_register_alone_touches_no_function() -> None:
    client = desired(1)
    moved = DesiredClient(client.function, msgspec.structs.replace(client.record, data_loc="file:///y"))
    assert planned([moved], [client], [registered(client)]) == [[("change", "client-1")]]


def test_a_half_failed_deployment_is_completed() -> None:
    both = [desired(1), desired(2)]
    assert planned(both, [both[0]], []) == [
        [("register", "client-1")],
        [("create", "client-2"), ("register", "client-2")],
    ]


def test_a_function_that_vanished_is_created_again_and_stays_registered() -> None:
    assert planned([desired(1)], [], [registered(desired(1))]) == [[("create", "client-1")]]


def test_a_paused_client_stays_paused() -> None:
    client = desired(1)
    paused = msgspec.structs.replace(registered(client), paused=True)
    assert planned([client], [client], [paused]) == []
    assert register_entry(client.record, paused, None).paused


def test_a_removed_client_leaves_the_register_before_its_function_is_deleted() -> None:
    both = [desired(1), desired(2)]
    assert planned(both[:1], both, [registered(client) for client in both]) == [
        [("unregister", "client-2"), ("delete", "client-2")]
    ]
    assert planned([], both, []) == [[("delete", "client-1")], [("delete", "client-2")]]
    assert planned([], [], [registered(both[0])]) == [[("unregister", "client-1")]]


@pytest.mark.parametrize("fabric", ["", "another"])
def test_functions_and_clients_of_other_fabrics_are_not_changed(fabric: str) -> None:
    foreign = Deployed(name="client-9", fabric=fabric, digest="", url="")
    register = [ClientRecord(id="client-8", platform="openfaas", labels={"fabric": fabric})]
    assert plan([], {"openfaas": [foreign]}, register, fabric="dev") == []


def test_a_client_that_moves_to_another_platform_is_removed_from_the_first() -> None:
    old, new = desired(1, "openfaas"), desired(1, "gcf")
    assert planned([new], [old], [registered(old)]) == [
        [("create", "client-1"), ("change", "client-1")],
        [("delete", "client-1")],
    ]


def test_the_register_gets_the_url_that_the_platform_triggers() -> None:
    client = desired(1)
    function = Deployed(name="client-1", fabric="dev", digest=client.function.digest, url="elsewhere")
    assert register_entry(client.record, None, function).url == "elsewhere"
    steps = plan([client], {"openfaas": [function]}, [registered(client)], fabric="dev")
    assert steps == [[Step("change", "client-1", "openfaas", client)]]


def test_the_summary_says_what_is_new_what_changes_and_what_stays() -> None:
    kinds: list[tuple[Action, ...]] = [
        ("create", "register"),
        ("register",),
        ("update",),
        ("change",),
        ("update", "change"),
    ]
    steps = [[Step(action, f"c-{i}", "board") for action in actions] for i, actions in enumerate(kinds)]
    assert summary(steps, 95, is_done=True) == "clients: 2 created, 3 changed, 90 unchanged"
    assert summary(steps, 95, is_done=False) == "clients: 2 to create, 3 to change, 90 unchanged"
    assert summary([], 5, is_done=True) == "clients: 0 created, 0 changed, 5 unchanged"


def test_the_summary_says_what_is_removed() -> None:
    removed = [Step("unregister", "c-9", "board"), Step("delete", "c-9", "board")]
    assert summary([removed], 5, is_done=True) == "clients: 0 created, 0 changed, 5 unchanged, 1 removed"
    assert summary([removed], 0, is_done=False) == "clients: 1 to remove"
    assert summary([], 0, is_done=True) == "clients: 0 removed"
