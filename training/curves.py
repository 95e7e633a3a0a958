"""Loss and validation over epochs: ``python3 -m training.curves runs/*/log.jsonl --out X.svg``.

A log is what ``training.train`` writes: a line of JSON every few steps. Several logs share the
axes, so that models show who learns faster.
"""

import argparse
import json
import os
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from edge_app.errors import ConfigError
from training import command

SMOOTHED_OVER = 15  # log entries


class Log(NamedTuple):
    """One run."""

    name: str  # its folder's
    losses: List[Tuple[float, float]]  # epoch, score loss + box loss
    validation: List[Tuple[float, float]]  # epoch, average precision


def read_log(path: str) -> Log:
    """Entries in order; after a resume a step stands twice, the later counts.

    Raises:
        ConfigError: the file is missing or no log of a run.
    """
    losses: Dict[float, float] = {}
    validation: Dict[float, float] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                entry = json.loads(line)
                losses[entry["epoch"]] = entry["score_loss"] + entry["box_loss"]
                if "validation_ap" in entry:
                    validation[entry["epoch"]] = entry["validation_ap"]
    except OSError as error:
        raise ConfigError("{}: {}; runs write log.jsonl.".format(path, error.strerror)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "{}: not the log of a run, which is a line of JSON an entry: {}.".format(path, error)
        ) from error
    name = os.path.basename(os.path.dirname(os.path.abspath(path)))
    return Log(name, sorted(losses.items()), sorted(validation.items()))


def smoothed(points: Sequence[Tuple[float, float]]) -> Tuple[List[float], List[float]]:
    """Epochs and the mean of the last few losses at each."""
    values = [value for _, value in points]
    means = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - SMOOTHED_OVER) : end]
        means.append(sum(window) / len(window))
    return [epoch for epoch, _ in points], means


def plot(logs: Sequence[Log], path: str) -> None:
    """Left the loss, right the validation, as SVG or PNG by the name's ending."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "curves"  # the same figures give the same bytes
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4))
    for log in logs:
        left.plot(*smoothed(log.losses), label=log.name)
        right.plot(*zip(*log.validation), marker="o", label=log.name)
    left.set(xlabel="epoch", ylabel="loss", title="training loss (score + box)")
    right.set(xlabel="epoch", ylabel="average precision", title="validation part")
    right.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    pyplot.close(figure)


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Read logs, write the picture."""
    parser = argparse.ArgumentParser(prog="training.curves", description=__doc__)
    parser.add_argument("logs", nargs="+", help="log.jsonl of a run")
    parser.add_argument("--names", nargs="*", default=[], help="instead of the folders' names")
    parser.add_argument("--out", required=True)
    options = parser.parse_args(arguments)
    logs = [read_log(path) for path in options.logs]
    for place, name in enumerate(options.names[: len(logs)]):
        logs[place] = logs[place]._replace(name=name)
    plot(logs, options.out)


if __name__ == "__main__":
    command.run("training.curves", main)
