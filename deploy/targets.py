"""Kinds of device: which Python and architecture they have, and what their system brings itself."""

from typing import Dict, List, NamedTuple, Optional, Tuple


class Target(NamedTuple):
    """One kind of device, named like ``cp36-aarch64``."""

    name: str
    python: str  # "3.6"
    machine: str  # as uname -m says
    glibc: int  # its minor version: 27 is glibc 2.27
    system: str  # in words

    @property
    def abis(self) -> Tuple[str, ...]:
        """Names of the binary interfaces whose wheels load there."""
        own = "cp" + self.python.replace(".", "")
        return (own + "m" if self.python == "3.6" else own, "abi3", "none")

    @property
    def platforms(self) -> List[str]:
        """Names of the platforms whose wheels load there, in pip's words."""
        names = ["manylinux_2_{}".format(minor) for minor in range(5, self.glibc + 1)]
        names.append("manylinux2014")
        if self.machine == "x86_64":
            names += ["manylinux2010", "manylinux1"]
        return ["{}_{}".format(name, self.machine) for name in names]


_KINDS = (
    Target("cp36-aarch64", "3.6", "aarch64", 27, "JetPack 4: Jetson Nano, TX2, Xavier"),
    Target("cp38-aarch64", "3.8", "aarch64", 31, "JetPack 5: Xavier, Orin"),
    Target("cp310-aarch64", "3.10", "aarch64", 35, "JetPack 6: Orin; Ubuntu 22.04"),
    Target("cp311-aarch64", "3.11", "aarch64", 36, "Debian 12"),
    Target("cp36-x86_64", "3.6", "x86_64", 27, "Ubuntu 18.04"),
    Target("cp310-x86_64", "3.10", "x86_64", 35, "Ubuntu 22.04"),
    Target("cp311-x86_64", "3.11", "x86_64", 36, "Debian 12"),
    Target("cp312-x86_64", "3.12", "x86_64", 39, "Ubuntu 24.04"),
)
TARGETS: Dict[str, Target] = {kind.name: kind for kind in _KINDS}
USUAL = ("cp36-aarch64", "cp38-aarch64", "cp310-aarch64", "cp311-x86_64")


def find_target(machine: str, pythons: List[str]) -> Optional[Target]:
    """The target of a device, or None where a release cannot be made for it.

    Args:
        machine: what ``uname -m`` says there.
        pythons: versions of the Pythons there, the preferred first: ["3.11"].
    """
    for python in pythons:
        name = "cp{}-{}".format(python.replace(".", ""), machine)
        if name in TARGETS:
            return TARGETS[name]
    return None
