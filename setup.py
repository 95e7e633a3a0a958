"""Metadata stands in setup.cfg: the original Nano's setuptools knows no pyproject metadata."""

from setuptools import setup

setup()
