"""Every exception edge-app raises on purpose, and the exit status each one gives.

    EdgeAppError
    ├── ConfigError(ValueError)      78  a setting is unknown, of the wrong type or impossible
    ├── CameraError(OSError)         69  the source cannot be opened, failed, or fell silent
    ├── ImageError(ValueError)       65  a file that should hold a picture or a clip does not
    ├── CardError(ValueError)        65  the model card is missing, unreadable or does not fit the model
    ├── DetectorError(RuntimeError)  70  the network cannot be loaded or gave nonsense
    │   └── OutOfMemoryError         70  ... for want of memory at this moment
    ├── DisplayError(OSError)        74  the screen, the page or the output file cannot be opened or written
    └── StageError(RuntimeError)     70  a stage thread failed; its own error is ``__cause__``

A message says what happened, where, and what to do. The numbers are those of sysexits.h, so that
systemd can tell a wrong configuration (78, not retried) from a dead camera (69, retried).
"""

from edge_app.passwords import hide


class EdgeAppError(Exception):
    """Base of all deliberate errors. ``exit_status`` is what the command line returns for it.

    Its text goes to screens, logs and the page: passwords in it are hidden.
    """

    exit_status = 70

    def __str__(self) -> str:
        return hide(super().__str__())


class ConfigError(EdgeAppError, ValueError):
    """A setting is unknown, of the wrong type, or impossible. The message begins with its key's path."""

    exit_status = 78


class CameraError(EdgeAppError, OSError):
    """A source cannot be opened, reported an error, or delivered nothing for too long."""

    exit_status = 69


class ImageError(EdgeAppError, ValueError):
    """A file that should hold a picture or a clip is missing, truncated, empty or of another kind."""

    exit_status = 65


class CardError(EdgeAppError, ValueError):
    """A model card is missing, unreadable, or does not describe the model beside it."""

    exit_status = 65


class DetectorError(EdgeAppError, RuntimeError):
    """The network cannot be loaded or run, or its output is unusable."""

    exit_status = 70


class OutOfMemoryError(DetectorError):
    """There is too little memory at this moment; nothing else is wrong, and another start may find it."""


class DisplayError(EdgeAppError, OSError):
    """A window, page or output file cannot be opened or written."""

    exit_status = 74


class StageError(EdgeAppError, RuntimeError):
    """A stage of the pipeline failed. ``stage`` names it; the original error is ``__cause__``."""

    def __init__(self, stage: str, error: BaseException) -> None:
        super().__init__("{} stage: {}".format(stage, error))
        self.stage = stage
        self.exit_status = getattr(error, "exit_status", EdgeAppError.exit_status)


class EndOfStream(Exception):
    """A file or folder has given its last frame. Not an error: the normal end of a source that has one."""
