"""The one-place mailbox."""

import threading

import pytest

from edge_app.slot import LatestSlot, SlotClosed


def test_the_newest_item_wins_and_the_others_are_counted():
    slot = LatestSlot()
    for item in (1, 2, 3):
        slot.put(item)
    assert slot.take(0) == 3
    assert slot.dropped == 2
    assert slot.take(0) is None


def test_a_lossless_slot_loses_nothing():
    slot = LatestSlot(lossless=True)
    sender = threading.Thread(target=lambda: [slot.put(number) for number in range(50)])
    sender.start()
    assert [slot.take(60) for _ in range(50)] == list(range(50))
    sender.join(60)
    assert slot.dropped == 0


def test_what_was_put_before_closing_is_still_delivered():
    slot = LatestSlot()
    slot.put("last")
    slot.close()
    slot.close()
    assert slot.take(0) == "last"
    with pytest.raises(SlotClosed):
        slot.take(0)
    with pytest.raises(SlotClosed):
        slot.put("late")


@pytest.mark.parametrize("wait", [lambda slot: slot.take(30), lambda slot: slot.put("no room")])
def test_closing_wakes_whoever_waits(wait):
    slot = LatestSlot(lossless=True)
    if wait.__code__.co_names[0] == "put":
        slot.put("first")
    ended = threading.Event()

    def waiting():
        with pytest.raises(SlotClosed):
            wait(slot)
            wait(slot)
        ended.set()

    thread = threading.Thread(target=waiting)
    thread.start()
    slot.close()
    assert ended.wait(5)
    thread.join(60)


def test_what_was_under_way_when_it_was_closed_is_counted():
    slot = LatestSlot()
    slot.put("never taken")
    assert slot.left == 0
    slot.close()
    assert slot.left == 1
    with pytest.raises(SlotClosed):
        slot.put("refused")
    assert slot.left == 2
    slot.take(0)
    assert (slot.left, slot.dropped) == (1, 0)
