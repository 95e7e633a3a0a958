"""The appliance's knowledge of itself."""

from edge_app.appliance.status import Status


def test_what_is_waited_for_comes_and_goes_and_is_noted_once():
    status = Status()
    for _ in range(3):
        status.waiting("camera", "no camera 0")
    assert status.snapshot().waiting == {"camera": "no camera 0"}
    status.waiting("camera", "")
    status.waiting("camera", "")
    assert status.snapshot().waiting == {}
    assert [note.text for note in status.snapshot().notes] == ["waiting: no camera 0", "goes on"]


def test_counts_add_up_and_a_snapshot_stays_as_it_was():
    status = Status()
    status.restarted("camera")
    before = status.snapshot()
    status.restarted("camera")
    status.dropped("heat", 3)
    status.dropped("heat")
    assert before.restarts == {"camera": 1} and before.dropped == {}
    assert status.snapshot().restarts == {"camera": 2} and status.snapshot().dropped == {"heat": 4}


def test_a_year_of_notes_takes_no_more_memory_than_a_day():
    status = Status()
    for number in range(1000):
        status.note("camera", str(number))
    notes = status.snapshot().notes
    assert len(notes) == 200 and notes[-1].text == "999"
