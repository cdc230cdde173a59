"""What a bridge tells of its machine."""

from bridges.machine import Machine, available_mb, machine_id, this_machine
from broker.messages.register import Host

MEMINFO = "MemTotal:        7802880 kB\nMemFree:          123456 kB\nMemAvailable:    4194304 kB\n"


def test_the_free_memory_is_what_new_programs_could_use() -> None:
    assert available_mb(MEMINFO) == 4096
    assert available_mb("MemTotal: 1 kB\n") is None


def test_boards_of_one_host_name_have_different_ids_and_so_have_containers_of_one_board() -> None:
    ids = {machine_id("jetson", "boot-1"), machine_id("jetson", "boot-2"), machine_id("container", "boot-1")}
    assert len(ids) == 3
    assert machine_id("jetson", "boot-1") == machine_id("jetson", "boot-1")


def test_this_machine_is_always_the_same_and_knows_what_is_free() -> None:
    here, again = this_machine(), this_machine()
    assert (here.name, here.id) == (again.name, again.id)
    host = here.host()
    assert host.version
    assert (host.memory_mb or 0) > 0
    assert (host.disk_mb or 0) >= 0


def test_what_is_not_known_is_left_out() -> None:
    assert Machine("board", "id").host() == Host(name="board", id="id")
