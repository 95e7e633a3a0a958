"""Face detection on a Jetson: from the camera to boxes on a screen."""

__version__ = "0.1.0"
