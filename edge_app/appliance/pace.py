"""So many pictures a second of more that come, evenly."""


class Pace:
    """Which moments count when they come more often than wanted.

    Due times keep their distance, whatever the moments' own rhythm: 10 of 30 a second are 10, not 7.5.
    After a pause, or when time was set back, they begin anew, and nothing is made up for.

    Attributes:
        due_at: from then on the next one counts; seconds.
    """

    def __init__(self) -> None:
        self.due_at = float("-inf")

    def takes(self, at: float, rate_hz: float) -> bool:
        """Whether the moment ``at`` (seconds) counts; if it does, sets when the next one will."""
        period_s = 1.0 / rate_hz
        if at < self.due_at <= at + period_s:
            return False
        is_regular = 0.0 <= at - self.due_at < period_s
        self.due_at = (self.due_at if is_regular else at) + period_s
        return True
