# SPDX-License-Identifier: LGPL-2.1-or-later
"""What both clients promise, on each XenStore: the one in memory and both real daemons."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import pytest
from xenstore_worlds import Heard

from xenwarden_channel import errors, paths

if TYPE_CHECKING:
    from xenstore_worlds import Wait, World

    from xenwarden_channel.transaction import Transaction

HOME5 = "/local/domain/5"


# --- nodes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"", b"1", b"a\0b", bytes(range(256)), b"x" * 2000])
def test_dom0_reads_what_it_wrote(world: World, value: bytes) -> None:
    world.store.write("/tool/xenwarden/x", value)
    assert world.store.read("/tool/xenwarden/x") == value


def test_a_missing_node_is_not_found(world: World) -> None:
    with pytest.raises(errors.NotFoundError):
        world.store.read("/tool/nothing/here")
    with pytest.raises(errors.NotFoundError):
        world.store.directory("/tool/nothing/here")
    with pytest.raises(errors.NotFoundError):
        world.store.permissions("/tool/nothing/here")


def test_writing_makes_the_parents(world: World) -> None:
    world.store.write("/tool/xenwarden/a/b/c", b"1")
    assert world.store.read("/tool/xenwarden/a/b") == b""
    assert world.store.directory("/tool/xenwarden/a") == ["b"]


def test_many_values_come_in_order_and_none_where_there_is_none(world: World) -> None:
    for number in range(0, 600, 2):
        world.store.write(f"/tool/many/{number}", b"%d" % number)
    got = world.store.read_many([f"/tool/many/{number}" for number in range(600)])
    assert got == [b"%d" % number if number % 2 == 0 else None for number in range(600)]
    assert world.store.read_many([]) == []


def test_many_writes_answer_one_by_one(world: World) -> None:
    answers = world.store.write_many([("/tool/a", b"1"), ("/tool/b c", b"2"), ("/tool/d", b"3")])
    assert answers[0] is None
    assert answers[2] is None
    assert isinstance(answers[1], errors.InvalidError)
    assert world.store.read_many(["/tool/a", "/tool/d"]) == [b"1", b"3"]


@pytest.mark.parametrize("path", ["/tool//x", "/tool/x/", "/tool/a b", "/tool/ä", "/tool/\0", ""])
def test_a_path_that_xenstore_does_not_take_is_invalid(world: World, path: str) -> None:
    with pytest.raises(errors.InvalidError):
        world.store.write(path, b"1")


def test_what_exceeds_a_request_is_too_big(world: World) -> None:
    with pytest.raises(errors.TooBigError):
        world.store.write("/tool/x", b"x" * 4096)
    assert world.store.read("/tool") == b"", "the connection stands"


def test_mkdir_keeps_what_is_there(world: World) -> None:
    world.store.mkdir("/tool/new")
    assert world.store.read("/tool/new") == b""
    world.store.write("/tool/new", b"1")
    world.store.mkdir("/tool/new")
    assert world.store.read("/tool/new") == b"1"


def test_remove_takes_all_below_and_may_be_repeated(world: World) -> None:
    world.store.write("/tool/gone/a/b", b"1")
    world.store.remove("/tool/gone")
    assert world.store.read_many(["/tool/gone", "/tool/gone/a/b"]) == [None, None]
    world.store.remove("/tool/gone")
    world.store.remove("/tool/gone/a/b")


def test_a_directory_of_any_size_is_listed(world: World) -> None:
    names = [f"a-rather-long-name-as-uuids-are-{number}" for number in range(1200)]
    world.store.write_many([(f"/tool/big/{name}", b"") for name in names])
    assert sorted(world.store.directory("/tool/big")) == sorted(names)


def test_permissions_are_inherited_and_can_be_set(world: World) -> None:
    world.store.mkdir("/tool/p")
    world.store.set_permissions("/tool/p", ["n0", "r5", "b6"])
    assert world.store.permissions("/tool/p") == ["n0", "r5", "b6"]
    world.store.write("/tool/p/below", b"")
    assert world.store.permissions("/tool/p/below") == ["n0", "r5", "b6"]


# --- guests ---------------------------------------------------------------------------------------


def test_a_guest_writes_below_data_and_dom0_reads_it(world: World) -> None:
    world.create(5)
    guest = world.guest(5)
    guest.write(paths.UP_REPORT, b"xw1 report seq=1")
    assert guest.read(paths.UP_REPORT) == b"xw1 report seq=1"
    assert world.store.read(paths.absolute(5, paths.UP_REPORT)) == b"xw1 report seq=1"
    assert world.store.permissions(paths.absolute(5, paths.UP_REPORT)) == ["n5"]
    guest.remove(paths.UP_DIR)
    guest.remove(paths.UP_DIR)
    assert world.store.read_many([paths.absolute(5, paths.UP_REPORT)]) == [None]


def test_a_guest_reads_but_does_not_write_what_comes_down(world: World) -> None:
    world.create(5)
    world.store.write(f"{HOME5}/{paths.DOWN_DIR}", b"")
    world.store.set_permissions(f"{HOME5}/{paths.DOWN_DIR}", ["n0", "r5"])
    world.store.write(f"{HOME5}/{paths.DOWN_ORDER}", b"xw1 order seq=1 level=1")
    guest = world.guest(5)
    assert guest.read(paths.DOWN_ORDER) == b"xw1 order seq=1 level=1"
    for path in (paths.DOWN_ORDER, paths.DOWN_DIR, f"{paths.DOWN_DIR}/mine"):
        with pytest.raises(errors.PermissionDeniedError):
            guest.write(path, b"x")
    with pytest.raises(errors.PermissionDeniedError):
        guest.remove(paths.DOWN_ORDER)


def test_a_guest_neither_reads_nor_writes_what_is_not_its_own(world: World) -> None:
    world.create(5)
    world.create(6)
    world.guest(6).write("data/secret", b"6")
    guest = world.guest(5)
    for path in ("/local/domain/6/data/secret", "/local/domain/6/data/none", "/tool/xenwarden", "/vm/x"):
        # oxenstored tells a guest that a foreign node is not there, C xenstored does not.
        with pytest.raises((errors.PermissionDeniedError, errors.NotFoundError)):
            guest.read(path)
        with pytest.raises(errors.PermissionDeniedError):
            guest.write(path, b"5")
    with pytest.raises(errors.PermissionDeniedError):
        guest.write("xenwarden/order", b"5")


def test_a_guest_does_not_find_what_is_missing_in_its_own(world: World) -> None:
    world.create(5)
    with pytest.raises(errors.NotFoundError):
        world.guest(5).read("data/nothing")


def test_a_guest_of_too_many_nodes_meets_its_quota_and_dom0_does_not(world: World) -> None:
    world.create(5)
    guest = world.guest(5)

    def fill() -> None:
        for number in range(1100):
            guest.write(f"data/{number // 50}/{number}", b"")

    with pytest.raises(errors.QuotaError):
        fill()
    world.store.write_many([(f"{HOME5}/device/{number}", b"") for number in range(1100)])
    assert len(world.store.directory(f"{HOME5}/device")) == 1100
    guest.write("data/0/0", b"a node that is there can be written still")


def test_a_guests_value_is_bounded_and_a_message_fits(world: World) -> None:
    world.create(5)
    guest = world.guest(5)
    guest.write(paths.UP_REPORT, b"x" * paths.MAX_MESSAGE_BYTES)
    with pytest.raises(errors.QuotaError):
        guest.write(paths.UP_REPORT, b"x" * 2100)
    with pytest.raises(errors.TooBigError):
        guest.write(paths.UP_REPORT, b"x" * 4096)
    assert guest.read(paths.UP_REPORT) == b"x" * paths.MAX_MESSAGE_BYTES


def test_a_guest_of_too_many_watches_meets_its_quota(world: World) -> None:
    world.create(5)
    guest = world.guest(5)

    def watch_all() -> None:
        for number in range(200):
            guest.watch(f"data/{number}", "token")

    with pytest.raises(errors.QuotaError):
        watch_all()
    guest.write("data/still", b"works")


def test_a_guest_has_all_calls_that_dom0_has(world: World) -> None:
    world.create(5)
    guest = world.guest(5)
    names = [f"data/many/{number}" for number in range(60)]
    assert guest.write_many([(name, name.encode()) for name in names]) == [None] * 60
    assert guest.read_many([*names, "data/none"]) == [*(name.encode() for name in names), None]
    answers = guest.write_many([("data/a", b"1"), ("/tool/mine", b"2"), ("data/b", b"3")])
    assert [type(answer) for answer in answers] == [type(None), errors.PermissionDeniedError, type(None)]
    assert sorted(guest.directory("data/many")) == sorted(name.rpartition("/")[2] for name in names)
    guest.mkdir("data/new")
    guest.set_permissions("data/new", ["n5", "r6"])
    assert guest.permissions("data/new") == ["n5", "r6"]
    assert guest.directory("data/new") == []
    assert world.store.permissions(f"{HOME5}/data/new") == ["n5", "r6"]


def test_a_guest_lists_a_directory_of_any_size(world: World) -> None:
    world.create(5)
    names = [f"a-rather-long-name-as-uuids-are-{number}" for number in range(300)]
    world.store.write_many([(f"{HOME5}/data/big/{name}", b"") for name in names])
    guest = world.guest(5)
    if world.kind == "oxenstored":  # it refuses, and has no DIRECTORY_PART
        with pytest.raises(errors.TooBigError):
            guest.directory("data/big")
        return
    assert sorted(guest.directory("data/big")) == sorted(names)


# --- watches --------------------------------------------------------------------------------------


def test_a_watch_fires_at_once_and_then_for_the_node_and_below(world: World, eventually: Wait) -> None:
    heard = Heard(world.store)
    world.store.watch("/tool/w", "t")
    eventually(lambda: heard.has(("/tool/w", "t")))
    heard.clear()
    world.store.write("/tool/w", b"1")
    world.store.write("/tool/w/below", b"1")
    world.store.write("/tool/wrong", b"1")
    eventually(lambda: heard.has(("/tool/w", "t"), ("/tool/w/below", "t")))
    assert all(path != "/tool/wrong" for path, _token in heard.events)


def test_events_of_one_node_are_one(world: World, eventually: Wait) -> None:
    heard = Heard(world.store)
    world.store.watch("/tool/w", "t")
    world.store.watch("/tool/last", "t")
    eventually(lambda: heard.has(("/tool/w", "t"), ("/tool/last", "t")))
    heard.clear()
    world.store.write_many([("/tool/w", b"%d" % number) for number in range(200)])
    events = world.store.events()
    assert events.count(("/tool/w", "t")) <= 1


def test_a_guest_that_makes_many_names_fires_a_bounded_number_of_events(
    world: World, eventually: Wait
) -> None:
    world.create(5)
    guest = world.guest(5)
    world.store.watch(f"{HOME5}/data", "t")
    eventually(world.store.events)
    for number in range(300):
        guest.write(f"data/{number % 100}/{number}", b"")
    guest.write("data/done", b"")
    assert len(world.store.events()) <= 64


def test_the_event_descriptor_tells_when_there_is_something(world: World) -> None:
    poller = select.poll()
    poller.register(world.store.event_fd(), select.POLLIN)
    assert not poller.poll(0)
    world.store.watch("/tool/w", "t")
    assert poller.poll(10_000)
    assert world.store.events() == [("/tool/w", "t")]
    assert not poller.poll(0)
    assert world.store.events() == []


def test_after_unwatch_nothing_comes(world: World, eventually: Wait) -> None:
    heard = Heard(world.store)
    world.store.watch("/tool/a", "gone")
    world.store.watch("/tool", "stays")
    eventually(lambda: heard.has(("/tool/a", "gone"), ("/tool", "stays")))
    world.store.unwatch("/tool/a", "gone")
    world.store.unwatch("/tool/a", "gone")
    heard.clear()
    world.store.write("/tool/a", b"1")
    eventually(lambda: heard.has(("/tool/a", "stays")))
    assert ("/tool/a", "gone") not in heard.events


def test_a_guest_may_stop_watching(world: World, eventually: Wait) -> None:
    world.create(5)
    guest = world.guest(5)
    guest.watch("data/a", "gone")
    guest.watch("data", "stays")
    heard = Heard(guest)
    eventually(lambda: heard.has(("data/a", "gone"), ("data", "stays")))
    guest.unwatch("data/a", "gone")
    guest.unwatch("data/a", "gone")
    heard.clear()
    guest.write("data/a", b"1")
    eventually(lambda: heard.has(("data/a", "stays")))
    assert ("data/a", "gone") not in heard.events


def test_one_token_may_stand_for_several_paths(world: World, eventually: Wait) -> None:
    heard = Heard(world.store)
    world.store.watch("/tool/a", "t")
    world.store.watch("/tool/b", "t")
    world.store.watch("/tool/b", "t")
    eventually(lambda: heard.has(("/tool/a", "t"), ("/tool/b", "t")))
    heard.clear()
    world.store.unwatch("/tool/a", "t")
    world.store.write("/tool/b", b"")
    eventually(lambda: heard.has(("/tool/b", "t")))


def test_a_guest_hears_in_its_own_words(world: World, eventually: Wait) -> None:
    world.create(5)
    world.store.write(f"{HOME5}/xenwarden", b"")
    world.store.set_permissions(f"{HOME5}/xenwarden", ["n0", "r5"])
    guest = world.guest(5)
    heard = Heard(guest)
    guest.watch("xenwarden", "down")
    eventually(lambda: heard.has(("xenwarden", "down")))
    world.store.write(f"{HOME5}/xenwarden/order", b"1")
    eventually(lambda: heard.has(("xenwarden/order", "down")))


def test_a_guest_is_not_told_of_what_it_may_not_read(world: World, eventually: Wait) -> None:
    world.create(5)
    guest = world.guest(5)
    heard = Heard(guest)
    guest.watch("/tool", "spy")
    guest.watch("data", "own")
    eventually(lambda: heard.has(("data", "own")))
    heard.clear()
    world.store.write("/tool/secret", b"1")
    guest.write("data/x", b"")
    eventually(lambda: heard.has(("data/x", "own")))
    assert all(token != "spy" for _path, token in heard.events)


def test_removal_of_a_node_is_heard(world: World, eventually: Wait) -> None:
    world.create(5)
    guest = world.guest(5)
    guest.write("data/xenwarden/report", b"1")
    heard = Heard(world.store)
    world.store.watch(f"{HOME5}/data/xenwarden/report", "t")
    eventually(lambda: heard.has((f"{HOME5}/data/xenwarden/report", "t")))
    heard.clear()
    guest.remove("data/xenwarden")
    eventually(lambda: heard.has((f"{HOME5}/data/xenwarden/report", "t")))


def test_domains_that_come_and_go_are_announced(world: World, eventually: Wait) -> None:
    heard = Heard(world.store)
    world.store.watch("@introduceDomain", "come")
    world.store.watch("@releaseDomain", "go")
    eventually(lambda: heard.has(("@introduceDomain", "come"), ("@releaseDomain", "go")))
    heard.clear()
    world.create(5)
    eventually(lambda: heard.has(("@introduceDomain", "come")))
    assert ("@releaseDomain", "go") not in heard.events
    world.destroy(5)
    eventually(lambda: heard.has(("@releaseDomain", "go")))


def test_a_domid_that_comes_again_starts_empty(world: World) -> None:
    world.create(5)
    world.guest(5).write("data/old", b"1")
    world.destroy(5)
    world.create(5)
    with pytest.raises(errors.NotFoundError):
        world.guest(5).read("data/old")


def test_a_guests_reconnect_watches_again(world: World, eventually: Wait) -> None:
    world.create(5)
    guest = world.guest(5)
    guest.watch("data/x", "t")
    guest.reconnect()
    heard = Heard(guest)
    eventually(lambda: heard.has(("data/x", "t")))
    heard.clear()
    world.store.write(f"{HOME5}/data/x", b"1")
    eventually(lambda: heard.has(("data/x", "t")))


def test_a_closed_guest_is_disconnected(world: World) -> None:
    world.create(5)
    guest = world.guest(5)
    guest.close()
    for call in (lambda: guest.read("data"), lambda: guest.write("data/x", b""), guest.events):
        with pytest.raises(errors.DisconnectedError):
            call()


# --- transactions -----------------------------------------------------------------------------------


def test_a_transaction_is_done_as_a_whole_or_not_at_all(world: World, eventually: Wait) -> None:
    store = world.store
    store.write("/tool/count", b"1")
    heard = Heard(store)
    store.watch("/tool/new", "t")
    eventually(lambda: heard.has(("/tool/new", "t")))

    def add(transaction: Transaction) -> int:
        count = int(transaction.read("/tool/count")) + 1
        transaction.write("/tool/count", b"%d" % count)
        transaction.write("/tool/new/below", b"")
        assert transaction.read("/tool/count") == b"%d" % count
        assert store.read("/tool/count") == b"1", "nobody else sees it yet"
        return count

    heard.clear()
    assert store.transact(add) == 2
    assert store.read_many(["/tool/count", "/tool/new/below"]) == [b"2", b""]
    eventually(lambda: heard.has(("/tool/new/below", "t")))

    def fail(transaction: Transaction) -> None:
        transaction.remove("/tool/count")
        raise KeyError

    with pytest.raises(KeyError):
        store.transact(fail)
    assert store.read("/tool/count") == b"2"


def test_a_transaction_that_met_another_writer_is_run_again(world: World) -> None:
    store = world.store
    store.write("/tool/count", b"1")
    runs = []

    def add(transaction: Transaction) -> None:
        count = int(transaction.read("/tool/count"))
        runs.append(count)
        if len(runs) == 1:
            store.write("/tool/count", b"10")
        transaction.write("/tool/count", b"%d" % (count + 1))

    store.transact(add)
    assert store.read("/tool/count") == b"11"
    assert runs[-1] == 10


def test_a_transaction_ends_even_if_it_never_succeeds(world: World) -> None:
    store = world.store
    store.write("/tool/count", b"0")

    def disturbed(transaction: Transaction) -> None:
        count = int(transaction.read("/tool/count"))
        store.write("/tool/count", b"%d" % (count + 10))
        transaction.write("/tool/count", b"%d" % (count + 1))

    with pytest.raises(errors.AgainError):
        store.transact(disturbed)

    def endless(transaction: Transaction) -> None:
        while True:
            transaction.write("/tool/count", b"1")

    with pytest.raises(errors.TooBigError):
        store.transact(endless)
    assert store.read("/tool/count") != b"1"


def test_a_guests_transactions_are_its_own_and_bounded(world: World) -> None:
    world.create(5)
    guest = world.guest(5)
    guest.write("data/count", b"1")

    def add(transaction: Transaction) -> None:
        count = int(transaction.read("data/count"))
        if count == 1:
            world.store.write(f"{HOME5}/data/count", b"10")
        transaction.write("data/count", b"%d" % (count + 1))

    guest.transact(add)
    assert guest.read("data/count") == b"11"
    depth = 0

    def nest(_transaction: Transaction) -> None:
        nonlocal depth
        depth += 1
        guest.transact(nest)

    with pytest.raises(errors.QuotaError):
        guest.transact(nest)
    assert 5 < depth < 20
    guest.transact(lambda transaction: transaction.remove("data/count"))
    with pytest.raises(errors.NotFoundError):
        guest.read("data/count")
