"""The doctor as a whole: every check here and on a bare machine; its table, its JSON, its status."""

import json
import threading

from trees import NANO, loaded, machine

from edge_app.appliance import (
    checks_camera,
    checks_gpu,
    checks_program,
    checks_service,
    doctor,
    report,
)
from edge_app.appliance.finding import STATES, failure, not_needed, ok, warning
from edge_app.appliance.probe import Probed

QUICK = doctor.Topic("quick", (lambda loaded, machine: [ok("a", "fine")],))
BROKEN = doctor.Topic("broken", (lambda loaded, machine: [failure("b", "torn", "sew b\nwash b")],))


def test_every_check_runs_on_this_machine_and_every_problem_has_a_cure(tmp_path):
    findings = doctor.run_checks(loaded("display.kind=none", "camera.source=test://"))
    assert len(findings) >= sum(len(topic.checks) for topic in doctor.TOPICS) - 2
    for finding in findings:
        assert finding.state in STATES and finding.seen
        assert bool(finding.fix) == (finding.state in ("warning", "failure")), finding
        assert "failed itself" not in finding.seen, finding


def test_every_check_survives_a_machine_of_which_nothing_can_be_read(tmp_path, monkeypatch):
    asked = []

    def ask(*arguments, **_):
        asked.append(arguments)
        return Probed({}, "gone", False)

    for module in (checks_camera, checks_gpu, checks_program, checks_service):
        monkeypatch.setattr(module, "ask", ask)
    findings = doctor.run_checks(
        loaded("camera.source=csi://0", "display.kind=window,web"), str(tmp_path)
    )
    assert asked and not [one for one in findings if "failed itself" in one.seen]


def test_the_exit_status_tells(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "TOPICS", (QUICK,))
    assert doctor.check(loaded(), as_json=False) == 0
    assert "Everything that is needed here is fine." in capsys.readouterr().out
    monkeypatch.setattr(doctor, "TOPICS", (QUICK, BROKEN))
    assert doctor.check(loaded(), as_json=True) == 1
    tree = json.loads(capsys.readouterr().out)
    assert tree["counts"] == {"not needed": 0, "ok": 1, "warning": 0, "failure": 1}
    assert tree["findings"][1] == {
        "name": "b",
        "state": "failure",
        "seen": "torn",
        "fix": ["sew b", "wash b"],
    }


def test_the_worst_comes_last_and_commands_are_never_broken():
    long_command = "sudo " + "x" * 200
    findings = [
        failure("first", "torn", "sew"),
        ok("second", "fine " * 40),
        not_needed("third", "no camera"),
        not_needed("fourth", "no camera"),
        warning("fifth", "thin", long_command),
        failure("sixth", "gone", "buy"),
    ]
    text = report.table(findings, 60)
    places = [
        text.index(word) for word in ("second", "third, fourth: no", "fifth:", "first:", "sixth:")
    ]
    assert places == sorted(places)
    assert long_command in text
    assert all(len(line) <= 60 for line in text.splitlines()[:-1] if long_command not in line)
    assert text.endswith("Begin with first. The indented lines are the cures, to paste.")


def test_a_check_that_hangs_or_fails_does_not_keep_us_from_the_others(tmp_path):
    never = threading.Event()
    here = machine(tmp_path, NANO)
    found = doctor._bounded(lambda loaded, machine: never.wait() or [], loaded(), here, 0.05)
    assert "no answer within 0.05 s" in found[0].seen
    never.set()
    found = doctor._bounded(lambda loaded, machine: [][0], loaded(), here)
    assert found[0].state == "warning" and "IndexError" in found[0].seen
