"""Ports of this machine that nobody listens on."""

import random
import socket

# Below those the kernel hands out by itself (net.ipv4.ip_local_port_range): what is free now is not taken by
# somebody's outgoing connection a moment later, nor does a client that calls the port reach itself.
_FIRST, _LAST = 20000, 32000


def free_port():
    """A TCP port of 127.0.0.1 that can be listened on; tests that run beside this one get others."""
    chance = random.SystemRandom()
    while True:
        port = chance.randint(_FIRST, _LAST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
