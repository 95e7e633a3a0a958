"""A live run with a consumer that is too slow: what is on the screen must not grow old.

``make soak`` runs it for five minutes (SOAK_SECONDS); ``make test`` for a few seconds.
"""

import os
import time

import numpy as np
from models import make_bright

from edge_app.camera import open_camera
from edge_app.config import CameraSettings, DetectorSettings
from edge_app.detector import OnnxDetector
from edge_app.meter import Meter
from edge_app.pipeline import Pipeline

SLOW_S = 0.12  # the consumer takes this long for a picture: a quarter of what the camera gives


def test_frame_age_does_not_grow_and_memory_does_not_either(tmp_path):
    seconds = float(os.environ.get("SOAK_SECONDS", "6"))
    camera = open_camera(CameraSettings(source="test://", width_px=640, height_px=360))
    detector = OnnxDetector(DetectorSettings(model=make_bright(tmp_path), threads=1))
    ages, memory = [], []
    with Pipeline(camera, detector, 0.8, Meter()) as pipeline:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            result = pipeline.next(1.0)
            if result is not None:
                ages.append(time.monotonic() - result.frame.captured_at)
                memory.append(resident_mb())
            time.sleep(SLOW_S)
        dropped = sum(pipeline.dropped.values())
    part = max(len(ages) // 5, 1)
    first, last = np.median(ages[:part]), np.median(ages[-part:])
    print(
        "\n{:.0f} s, {} pictures shown, {} frames dropped; median age of the first fifth {:.0f} ms, of the "
        "last {:.0f} ms; memory {:.0f} to {:.0f} MB".format(
            seconds, len(ages), dropped, first * 1e3, last * 1e3, memory[part], memory[-1]
        )
    )
    assert len(ages) > 10 and dropped > len(ages)
    assert last < first + SLOW_S  # a queue would have grown by seconds
    assert memory[-1] - memory[part] < 20


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
