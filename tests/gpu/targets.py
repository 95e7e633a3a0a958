"""Which targets of TensorRT-RTX build an engine that this GPU runs: a line each, each in a process of its own.

python3 targets.py [SM]        SM: of that one; 0: no target named
"""

import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(os.path.dirname(HERE)))

from edge_app.card import card_path, load_card  # noqa: E402
from edge_app.config import DetectorSettings  # noqa: E402
from edge_app.nvidia import builder, cache, convert, parity  # noqa: E402
from edge_app.nvidia.context import CudaContext  # noqa: E402
from edge_app.nvidia.network import Network  # noqa: E402

TARGETS = (0, 75, 80, 86, 89, 120)
LIMIT_S = 25


def attempt(sm):
    """Build for one target and hold the engine to ONNX Runtime, here."""
    model = DetectorSettings().model
    card = load_card(card_path(model))
    with tempfile.TemporaryDirectory() as folder:
        plan, files = os.path.join(folder, "plan"), cache.files_of(model, folder)
        options = convert.ConvertOptions(sm=sm)
        report = builder.build(convert._request(model, card, plan, files, options, 512))
        with CudaContext(), Network(plan, card) as network:
            reference = parity.onnx_answers(model, card)
            result = parity.compare(reference, network.run, card, parity.golden_pictures())
    return "{}: runs; {}; {}".format(report.tensorrt, result, result.problem or "passes the gate")


def main(arguments):
    if arguments:
        try:
            print(attempt(int(arguments[0])))
        except Exception as error:  # whatever TensorRT and its library raise
            print("{}: {}".format(type(error).__name__, str(error)[:500]))
        return
    for sm in TARGETS:
        name = "sm_{}".format(sm) if sm else "no target named"
        try:
            command = [sys.executable, os.path.abspath(__file__), str(sm)]
            done = subprocess.run(command, stdout=subprocess.PIPE, timeout=LIMIT_S, check=False)
            last = done.stdout.decode("utf-8", "replace").strip().splitlines()[-1:]
            print(
                "{}: {}".format(name, last[0] if last else "ended with {}".format(done.returncode))
            )
        except subprocess.TimeoutExpired:
            print("{}: not done after {} s".format(name, LIMIT_S))


if __name__ == "__main__":
    main(sys.argv[1:])
