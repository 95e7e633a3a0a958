"""Memory that is used again, and never while somebody holds it."""

import threading

import numpy as np
import pytest

from edge_app.pool import Pool

SHAPE = (4, 6, 3)


def address(array):
    return array.__array_interface__["data"][0]


def test_what_nobody_holds_is_given_out_again():
    pool = Pool(SHAPE, count=2)
    first = address(pool.take())
    assert {address(pool.take()) for _ in range(10)} == {first}
    assert len(pool) == 2


@pytest.mark.parametrize(
    "part",
    [
        lambda array: array,
        lambda array: array[1:3, 2:],
        lambda array: array.T[::2],
        lambda array: array.view(np.int8)[0, 0],
        lambda array: memoryview(array),
        lambda array: np.frombuffer(array, np.uint8)[5:],
        lambda array: (array, "in a frame"),
    ],
)
def test_what_somebody_holds_a_part_of_is_not(part):
    pool = Pool(SHAPE, count=2)
    taken = pool.take()
    place = address(taken)
    held = part(taken)
    del taken
    assert all(address(pool.take()) != place for _ in range(5))
    del held
    assert address(pool.take()) == place


def test_more_are_made_when_more_are_held_and_all_are_used_again():
    pool = Pool(SHAPE, count=2)
    held = [pool.take() for _ in range(5)]
    assert len({address(array) for array in held}) == len(pool) == 5
    del held
    again = [pool.take() for _ in range(5)]
    assert len(pool) == 5 and again[0].shape == SHAPE and again[0].dtype == np.uint8


def test_another_thread_may_let_go():
    pool = Pool(SHAPE, count=1)
    box = [pool.take()]
    place = address(box[0])
    thread = threading.Thread(target=box.clear)
    thread.start()
    thread.join()
    assert address(pool.take()) == place
