from broker.nats.disk import FULL_BYTES, ROOM_BYTES, Change, Disk


def test_a_disk_is_full_once_and_has_room_again_once() -> None:
    disk = Disk()
    free = [1 << 40, FULL_BYTES - 1, 0, FULL_BYTES + 1, ROOM_BYTES + 1, 1 << 40, 0]
    assert [disk.update(free_bytes) for free_bytes in free] == [
        Change.NONE,
        Change.FULL,
        Change.NONE,
        Change.NONE,
        Change.ROOM_AGAIN,
        Change.NONE,
        Change.FULL,
    ]
