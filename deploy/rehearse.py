"""Try a release on its device before it is switched to: its settings, its engine, and whether it finds a face.

Run by activate.sh as the service's user, with the release's own Python, while the release before it is still at work:

    python rehearse.py RELEASE CONFIG ENGINES

ENGINES is a folder of this rehearsal; an engine that does not fit this device is built there, which takes minutes.
"""

import logging
import os
import sys
from typing import Optional, Sequence

from edge_app import cli, config
from edge_app.errors import EdgeAppError

CURRENT = "/opt/edge-app/current/"
_SURE = 0.5  # the portrait scores far above; a threshold of the configuration has no say here


def settings_of(release: str, path: str, engines: str) -> config.Settings:
    """The device's settings, with this release's network and an engine folder of its own."""
    settings = config.resolve(config.read_file(path)).settings
    model = settings.detector.model
    if model.startswith(CURRENT):
        model = os.path.join(release, model[len(CURRENT) :])
    return settings._replace(detector=settings.detector._replace(model=model, engines=engines))


def faces_found(settings: config.Settings) -> int:
    """Faces in the portrait that comes with the program; there is one."""
    import cv2

    picture = os.path.join(os.path.dirname(os.path.abspath(cli.__file__)), "data", "astronaut.jpg")
    # A release whose engine is refused shall not take the place of one that runs on the GPU.
    with cli.open_detector(settings, falls_back=False) as detector:
        faces = detector.detect(cv2.imread(picture), _SURE)
        print("found {} faces in its portrait with {}".format(len(faces), detector.description))
    return len(faces)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """0: the release works here. 78: a setting is wrong. Others: see ``edge_app.errors``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    release, path, engines = sys.argv[1:] if arguments is None else arguments
    try:
        if faces_found(settings_of(release, path, engines)):
            return 0
        print("the network finds no face in its own portrait")
        return 70
    except EdgeAppError as error:
        print(error)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
