"""What tests put in nvcc's place: "cubins" that the stand-in libcuda can load. nvcc's own options.

nvcc.py CACHE [--version | -cubin -O3 -std=c++14 -arch=sm_NN -o OUTPUT SOURCE]
"""

import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from standins import compiled_kernels  # noqa: E402


def main(cache, arguments):
    if arguments == ["--version"]:
        print("nvcc: a stand-in\nCuda compilation tools, release 10.2, V10.2.300")
        return
    output, source = arguments[arguments.index("-o") + 1 :]
    assert "-cubin" in arguments and "-std=c++14" in arguments, arguments
    assert any(argument.startswith("-arch=sm_") for argument in arguments), arguments
    try:
        shutil.copy(compiled_kernels(source, cache), output)
    except ValueError as error:
        os.write(2, str(error).encode("utf-8"))  # whatever the locale, as g++ does
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
