"""Build the stand-in libcuda.so.1 (and libcuda.so for linking) from libcuda.c.

python3 libcuda.py FOLDER                          before pycuda is compiled: something to link with
python3 libcuda.py FOLDER .../pycuda/_driver*.so   afterwards: adds a function answering 801 (not supported)
                                                   for each that pycuda's module wants and libcuda.c lacks
"""

import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def wanted(module):
    """Names of the driver functions that a compiled module leaves undefined."""
    text = subprocess.check_output(
        ["nm", "-D", "--undefined-only", module], universal_newlines=True
    )
    names = [line.split()[-1].split("@")[0] for line in text.splitlines()]
    return {name for name in names if re.match(r"cu[A-Z]", name)}


def build(folder, modules=()):
    """Write the library into ``folder``; return its path."""
    os.makedirs(folder, exist_ok=True)
    source = os.path.join(HERE, "libcuda.c")
    with open(source, encoding="utf-8") as file:
        have = set(re.findall(r"API R (cu\w+)\(", file.read()))
    missing = set().union(*(wanted(module) for module in modules)) - have
    stubs = os.path.join(folder, "unsupported.c")
    with open(stubs, "w", encoding="utf-8") as file:
        file.writelines("int {}(void) {{ return 801; }}\n".format(n) for n in sorted(missing))
    library = os.path.join(folder, "libcuda.so.1")
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.check_call(command + ["-o", library, source, stubs, "-ldl"])
    link = os.path.join(folder, "libcuda.so")
    if not os.path.lexists(link):
        os.symlink("libcuda.so.1", link)
    return library


if __name__ == "__main__":
    print(build(sys.argv[1], sys.argv[2:]))
