"""Who may look, on requests as aiohttp makes them."""

import pytest
from aiohttp.test_utils import make_mocked_request

from edge_app.appliance.guard import COOKIE, FAILURES, FAILURES_S, Guard, Places, is_loopback

TOKEN = "correct horse battery staple"


class Peer:
    """Says where a request comes from; all that aiohttp's own test request lacks."""

    def __init__(self, request, address):
        self._request, self.remote = request, address

    def __getattr__(self, name):
        return getattr(self._request, name)


def ask(path="/", peer="192.0.2.1", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Peer(make_mocked_request("GET", path, headers=headers), peer)


def guess(guard, count, peer, at=0.0):
    return [
        guard.refuse(ask("/?token=guess{}".format(n), peer), at).http_status for n in range(count)
    ]


@pytest.mark.parametrize(
    "request_of",
    [
        ask(Authorization="Bearer " + TOKEN),
        ask(Authorization="bearer  " + TOKEN),
        ask("/?token=" + TOKEN.replace(" ", "+")),
        ask(Cookie="{}={}".format(COOKIE, Guard(TOKEN, False).cookie)),
    ],
)
def test_the_token_lets_in(request_of):
    assert Guard(TOKEN, False).refuse(request_of, 0.0) is None


@pytest.mark.parametrize(
    "request_of",
    [
        ask(),
        ask(Authorization="Bearer"),
        ask(Authorization="Basic " + TOKEN),
        ask(Authorization="Bearer " + TOKEN[:-1]),
        ask(Authorization="Bearer " + Guard(TOKEN, False).cookie),
        ask("/?token="),
        ask("/?token=" + Guard(TOKEN, False).cookie),
        ask(Cookie='{}="{}"'.format(COOKIE, TOKEN)),
        ask(Cookie=COOKIE + "=\u00fcml\u00e4ut"),
        ask(Cookie="{}={}".format(COOKIE, Guard("another", False).cookie)),
    ],
)
def test_anything_else_does_not(request_of):
    refusal = Guard(TOKEN, False).refuse(request_of, 0.0)
    assert refusal.http_status == 401 and TOKEN not in refusal.text


def test_the_cookie_does_not_tell_the_token():
    assert TOKEN not in Guard(TOKEN, False).cookie


def test_after_some_wrong_ones_even_the_right_one_waits_a_minute():
    guard = Guard(TOKEN, False)
    assert guess(guard, FAILURES + 2, "192.0.2.1") == [401] * FAILURES + [429] * 2
    right = ask("/?token=" + TOKEN.replace(" ", "+"))
    assert guard.refuse(right, FAILURES_S).http_status == 429
    assert guard.refuse(right, FAILURES_S + 0.1) is None


def test_one_network_does_not_lock_out_another():
    guard = Guard(TOKEN, False)
    guess(guard, FAILURES, "192.0.2.1")
    assert guess(guard, 1, "192.0.2.2") == [401]


def test_the_addresses_of_one_ipv6_network_count_together():
    guard = Guard(TOKEN, False)
    assert [guess(guard, 1, "2001:db8::{:x}".format(n))[0] for n in range(FAILURES + 1)] == (
        [401] * FAILURES + [429]
    )
    assert guess(guard, 1, "2001:db8:0:1::1") == [401]
    assert guess(guard, 1, "fe80::1%eth0") == [401]
    assert guess(guard, FAILURES + 1, "::ffff:192.0.2.9")[-1] == 429
    assert guess(guard, 1, "::ffff:192.0.2.8") == [401]


def test_what_is_remembered_of_failures_does_not_grow():
    guard = Guard(TOKEN, False)
    wrong = ask("/?token=guess")
    for n in range(3000):
        wrong.remote = "10.0.{}.{}".format(n // 250, n % 250)
        assert guard.refuse(wrong, 0.0).http_status == 401
    assert len(guard._failures) <= 1000


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8080", "127.0.0.1:1", "[::1]", "[::1]:8080"]
)
def test_on_loopback_a_loopback_name_is_enough(host):
    assert Guard("", True).refuse(ask(Host=host), 0.0) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.1.evil",
        "[::2]",
        ":80",
    ],
)
def test_on_loopback_another_name_is_refused(host):
    assert Guard("", True).refuse(ask(Host=host), 0.0).http_status == 403


def test_what_loopback_is():
    assert all(is_loopback(name) for name in ("localhost", "127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(name) for name in ("0.0.0.0", "::", "192.168.0.1", "", "nano"))


def test_there_are_so_many_places_and_of_one_network_only_its_share():
    places = Places(limit=5, share=2)
    assert [places.take(n, "192.0.2.1") for n in range(3)] == [True, True, False]
    assert [places.take(n, "2001:db8::{}".format(n)) for n in range(3, 6)] == [True, True, False]
    assert places.take(6, "192.0.2.2") and len(places) == 5
    assert not places.take(7, "192.0.2.3"), "all are taken"
    places.leave(6)
    places.leave(6)
    assert not places.take(8, "::ffff:192.0.2.1"), "the share is still taken"
    places.leave(0)
    assert places.take(9, "::ffff:192.0.2.1") and len(places) == 4


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_whoever_is_on_this_machine_has_no_share_but_the_whole(address):
    places = Places(limit=5, share=2)
    assert [places.take(n, address) for n in range(6)] == [True] * 5 + [False]
