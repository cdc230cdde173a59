"""What a deployment would do, and above all what it would not."""

import msgspec
import pytest

from broker.messages.function import Deployed, Function
from broker.messages.register import ClientRecord
from fedkeeper.plan import DesiredClient, Step, plan, register_entry


def wanted(number: int, platform: str = "openfaas", **changes: str) -> DesiredClient:
    name = f"client-{number}"
    record = ClientRecord(id=name, platform=platform, function=name, labels={"fabric": "dev"}, data_loc="file:///x")
    return DesiredClient(Function(name=name, fabric="dev", **changes), record)  # type: ignore[arg-type]


def deployed(one: DesiredClient) -> Deployed:
    function = one.function
    return Deployed(name=function.name, fabric=function.fabric, digest=function.digest, url=f"at/{function.name}")


def registered(one: DesiredClient) -> ClientRecord:
    return msgspec.structs.replace(one.record, url=f"at/{one.function.name}")


def planned(
    want: list[DesiredClient], there: list[DesiredClient], register: list[ClientRecord]
) -> list[list[tuple[str, str]]]:
    listed: dict[str, list[Deployed]] = {}
    for one in there:
        listed.setdefault(one.record.platform, []).append(deployed(one))
    return [[(step.action, step.client) for step in one] for one in plan(want, listed, register, fabric="dev")]


def test_a_new_client_is_created_and_then_registered() -> None:
    assert planned([wanted(1)], [], []) == [[("create", "client-1"), ("register", "client-1")]]


def test_what_is_as_it_should_be_is_left_alone() -> None:
    both = [wanted(1), wanted(2, "gcf")]
    assert planned(both, both, [registered(one) for one in both]) == []


def test_an_edit_changes_only_what_differs() -> None:
    old = [wanted(1), wanted(2)]
    new = [wanted(1), wanted(2, image="client:2")]
    assert planned(new, old, [registered(one) for one in old]) == [[("update", "client-2")]]


def test_an_edit_of_the_register_alone_touches_no_function() -> None:
    one = wanted(1)
    moved = DesiredClient(one.function, msgspec.structs.replace(one.record, data_loc="file:///y"))
    assert planned([moved], [one], [registered(one)]) == [[("change", "client-1")]]


def test_a_half_failed_deployment_is_completed() -> None:
    both = [wanted(1), wanted(2)]
    assert planned(both, [both[0]], []) == [
        [("register", "client-1")],
        [("create", "client-2"), ("register", "client-2")],
    ]


def test_a_function_that_vanished_is_created_again_and_stays_registered() -> None:
    assert planned([wanted(1)], [], [registered(wanted(1))]) == [[("create", "client-1")]]


def test_a_paused_client_stays_paused() -> None:
    one = wanted(1)
    paused = msgspec.structs.replace(registered(one), paused=True)
    assert planned([one], [one], [paused]) == []
    assert register_entry(one.record, paused, None).paused


def test_what_is_no_longer_wanted_leaves_the_register_before_its_function_goes() -> None:
    both = [wanted(1), wanted(2)]
    assert planned(both[:1], both, [registered(one) for one in both]) == [
        [("unregister", "client-2"), ("delete", "client-2")]
    ]
    assert planned([], both, []) == [[("delete", "client-1")], [("delete", "client-2")]]
    assert planned([], [], [registered(both[0])]) == [[("unregister", "client-1")]]


@pytest.mark.parametrize("fabric", ["", "another"])
def test_what_belongs_to_others_is_left_alone(fabric: str) -> None:
    foreign = Deployed(name="client-9", fabric=fabric, digest="", url="")
    register = [ClientRecord(id="client-8", platform="openfaas", labels={"fabric": fabric})]
    assert plan([], {"openfaas": [foreign]}, register, fabric="dev") == []


def test_a_client_that_moves_to_another_platform_is_removed_from_the_first() -> None:
    old, new = wanted(1, "openfaas"), wanted(1, "gcf")
    assert planned([new], [old], [registered(old)]) == [
        [("create", "client-1"), ("change", "client-1")],
        [("delete", "client-1")],
    ]


def test_the_register_learns_where_the_platform_triggers_it() -> None:
    one = wanted(1)
    made = Deployed(name="client-1", fabric="dev", digest=one.function.digest, url="elsewhere")
    assert register_entry(one.record, None, made).url == "elsewhere"
    steps = plan([one], {"openfaas": [made]}, [registered(one)], fabric="dev")
    assert steps == [[Step("change", "client-1", "openfaas", one)]]
