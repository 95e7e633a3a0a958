"""What a run came to: frames, faces, rates, latency and drops, as a table and as JSON."""

import datetime
import errno
import json
import os
import platform
import sys
from contextlib import suppress
from typing import Any, Dict, NamedTuple

from edge_app import __version__
from edge_app.errors import DisplayError
from edge_app.meter import Meter, Percentiles

_STAGES = (("camera", "captured"), ("detect", "detected"), ("display", "shown"))


class Summary(NamedTuple):
    """The figures of one run."""

    source: str
    detector: str
    machine: str
    finished: str  # local date and time
    frames: Dict[str, int]  # captured, detected, shown, with_faces
    faces: int  # faces shown, summed over the frames
    fps: Dict[str, float]  # captured, detected, shown; averages from the first to the last frame
    steps_ms: Dict[str, Percentiles]
    dropped: Dict[str, int]
    left: Dict[str, int]  # under way at the end: captured = detected + dropped + left, and so on
    peak_memory_mb: float

    @classmethod
    def of(
        cls,
        meter: Meter,
        dropped: Dict[str, int],
        left: Dict[str, int],
        source: str,
        detector: str,
    ) -> "Summary":
        """Sum up what a meter has seen; ``dropped`` and ``left`` are those of ``Pipeline``."""
        counts, rates = meter.counts(), meter.average_rates()
        frames = {name: counts.get(event, 0) for event, name in _STAGES}
        frames["with_faces"] = counts.get("frames_with_faces", 0)
        return cls(
            source=source,
            detector=detector,
            machine=machine(),
            finished=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
            frames=frames,
            faces=counts.get("faces", 0),
            fps={name: rates.get(event, 0.0) for event, name in _STAGES},
            steps_ms=meter.summary(),
            dropped=dict(dropped),
            left=dict(left),
            peak_memory_mb=peak_memory_mb(),
        )

    def as_dict(self) -> Dict[str, Any]:
        """Plain values, for JSON; a step is ``{"p50": ms, "p95": ms, "p99": ms}``."""
        tree = dict(self._asdict())
        tree["steps_ms"] = {step: dict(p._asdict()) for step, p in self.steps_ms.items()}
        return tree

    def table(self) -> str:
        """For a terminal."""
        lines = [
            "edge-app {} on {}, {}".format(__version__, self.machine, self.finished),
            "source    {}".format(self.source),
            "detector  {}".format(self.detector or "never opened"),
            "",
            "{:<10}{:>9}{:>9}{:>9}".format("stage", "frames", "fps", "dropped"),
        ]
        for (event, name), cause in zip(_STAGES, ("camera", "detector", "display")):
            lines.append(
                "{:<10}{:>9}{:>9.1f}{:>9}".format(
                    name, self.frames[name], self.fps[name], self.dropped.get(cause, 0)
                )
            )
        lines += [
            "",
            "faces shown {}, in {} of {} frames".format(
                self.faces, self.frames["with_faces"], self.frames["shown"]
            ),
            "",
            steps_table(self.steps_ms),
            "",
            "peak memory {:.0f} MB".format(self.peak_memory_mb),
        ]
        return "\n".join(lines)

    def save(self, path: str) -> None:
        """Write as JSON, whole or not at all.

        Raises:
            DisplayError: the file cannot be written.
        """
        temporary = path + ".tmp"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(self.as_dict(), file, indent=1)
                file.write("\n")
            os.replace(temporary, path)
        except OSError as error:
            raise _refused(path, error) from error
        finally:
            with suppress(OSError):  # where it was finished it has gone to its place
                os.remove(temporary)


def see_place(path: str) -> None:
    """Look whether ``Summary.save`` will be able to write there, before a run rather than after it.

    Raises:
        DisplayError: it will not.
    """
    temporary = path + ".tmp"
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with open(temporary, "w"):
            os.remove(temporary)
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: str, error: OSError) -> DisplayError:
    return DisplayError(
        "the statistics cannot be written to {}: {}. Give a folder that exists and is writable "
        "to --stats.".format(path, error.strerror)
    )


def steps_table(steps_ms: Dict[str, Percentiles]) -> str:
    """p50, p95 and p99 of each step; "latency" is from capture to the picture being shown."""
    lines = ["{:<14}{:>9}{:>9}{:>9}".format("ms", "p50", "p95", "p99")]
    for step, values in steps_ms.items():
        lines.append("{:<14}{:>9.2f}{:>9.2f}{:>9.2f}".format(step, *values))
    return "\n".join(lines)


def machine() -> str:
    """The device in words: a Jetson's model, else the processor and its number of cores."""
    for path in ("/proc/device-tree/model", "/sys/firmware/devicetree/base/model"):
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().strip("\0\n ")
        except OSError:
            continue
    name = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        name = names[0] if names else name
    except OSError:
        pass
    return "{}, {} cores, Python {}.{}".format(name, os.cpu_count(), *sys.version_info[:2])


def peak_memory_mb() -> float:
    """The most memory this process ever held (resident), in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
