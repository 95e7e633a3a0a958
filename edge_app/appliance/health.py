"""How the program is: what a probe, the page and a person are told, and why."""

from typing import Dict, NamedTuple, Optional, Tuple

READY_S = 5.0  # a frame inferred within this time: it works
SILENT_S = 10.0  # no frame for this long, and nobody waits for anything: something is wrong
STARTING_S = 120.0  # so long may the first frame take without a word
STUCK_S = 10.0  # the main loop turns every 100 ms
_HOLDING = ("camera", "detector")  # parts without which there are no frames


class Health(NamedTuple):
    """A judgement.

    ``state`` is one of "live", "starting", "waiting" (for what is missing), "silent" (no frame, and
    nothing says why) and "stuck" (the main loop stands still).
    """

    state: str
    ok: bool  # it makes progress, or rightly waits; else a restart may help
    ready: bool  # a frame was inferred within the last ``READY_S``
    reasons: Tuple[str, ...]  # in words; empty when all is well


def judge(
    now: float,
    started_at: float,
    turned_at: float,
    inferred_at: Optional[float],
    waiting: Dict[str, str],
) -> Health:
    """Judge by times, all in seconds of one monotonic clock.

    Args:
        started_at: when the program began.
        turned_at: when the main loop last turned.
        inferred_at: when the newest result was there; ``None`` before the first.
        waiting: by part, what it waits for.
    """
    reasons = tuple("{}: {}".format(part, text) for part, text in sorted(waiting.items()))
    if now - turned_at > STUCK_S:
        text = "the main loop has stood still for {:.0f} s".format(now - turned_at)
        return Health("stuck", False, False, (text,) + reasons)
    if inferred_at is not None and now - inferred_at <= READY_S:
        return Health("live", True, True, reasons)
    if any(part in waiting for part in _HOLDING):
        return Health("waiting", True, False, reasons)
    since = started_at if inferred_at is None else inferred_at
    text = "no frame for {:.0f} s".format(now - since)
    if inferred_at is None and now - since <= STARTING_S:
        return Health("starting", True, False, ("no frame yet",) + reasons)
    if inferred_at is not None and now - since <= SILENT_S:
        return Health("silent", True, False, (text,) + reasons)
    return Health("silent", False, False, (text + ", and nothing says why",) + reasons)
