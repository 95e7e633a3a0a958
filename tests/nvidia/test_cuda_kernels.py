"""nms.cu, run on the CPU, against boxes.select(): the same indices, boxes, scores and overflow.

The host's expf and NumPy's exp may differ in the last bit, as the GPU's may, and one bit can tip an
overlap over the threshold. So random cases with sizes compare in two steps (``assert_same``):
decoded boxes within 3e-7, then everything after exactly, on the kernel's own boxes. Where tw and th
are 0 (exp is exactly 1) the whole chain must be equal.
"""

import faulthandler
import os

import numpy as np
import pytest
from kernel_runner import ORDERS, KernelError, PostProcess, Runner
from standins import compiled_kernels

from edge_app import boxes
from edge_app.nvidia import compiler

VARIANCES = (0.1, 0.2)

MUTANTS = [  # what is broken, text to replace, its replacement
    (
        "no barrier before the tile is read",
        "start + t] : ~0ULL;\n        __syncthreads();",
        "start + t] : ~0ULL;",
    ),
    (
        "no barrier before the next tile is written",
        "< key;\n        __syncthreads();",
        "< key;",
    ),
    ("no barrier before the ranks are summed", "= rank;\n    __syncthreads();", "= rank;"),
    (
        "early return before a barrier",
        "    const u64 key = mine < n",
        "    if (mine >= n) return;\n    const u64 key = mine < n",
    ),
    ("no barrier after the column is loaded", "+ k];\n        __syncthreads();", "+ k];"),
    (
        "no barrier before the next column",
        "+ col] = bits;\n        }\n        __syncthreads();",
        "+ col] = bits;\n        }",
    ),
    ("shared memory not zeroed", "gone[c] = 0;", ";"),
    (
        "no barrier before the survivors are chosen",
        "1ULL << t);\n        }\n        __syncthreads();",
        "1ULL << t);\n        }",
    ),
    (
        "no barrier after the survivors are chosen",
        "survivors = bits;\n        }\n        __syncthreads();",
        "survivors = bits;\n        }",
    ),
    (">= where > is meant", "> iou_threshold) bits", ">= iou_threshold) bits"),
    ("> where >= is meant", "score >= threshold", "score > threshold"),
    ("last column forgotten", "j < columns", "j < columns - 1"),
    ("ties in the wrong order", "(unsigned)default_box;\n}", "~(unsigned)default_box;\n}"),
    ("degenerate boxes kept", "box[2] > box[0] && ", "box[2] >= box[0] && "),
    ("NaN clipped to a number", "v < 0.f ? 0.f", "!(v >= 0.f) ? 0.f"),
    ("one face too many", "alive && room > 0", "alive && room >= 0"),
    ("one candidate too many", "rank >= capacity", "rank > capacity"),
    ("the count is not reset", "found[0] = found[1] = 0;", "found[1] = 0;"),
]


class Case:
    """Raw answer of a network, and the settings."""

    def __init__(self, rng, count, kind, threshold=0.3, iou=0.45, capacity=4096, max_faces=750):
        self.threshold, self.iou = threshold, iou
        self.capacity, self.max_faces = capacity, max_faces
        self.defaults = np.concatenate(
            [rng.rand(count, 2), rng.rand(count, 2) * 0.3 + 0.02], axis=1
        ).astype(np.float32)
        self.offsets = rng.randn(count, 4).astype(np.float32)
        self.scores = rng.rand(count).astype(np.float32)
        if kind != "sizes":
            self.offsets[:, 2:] = 0
        self._spoil(rng, count, kind)

    def _spoil(self, rng, count, kind):
        if kind == "ties":
            self.scores = (rng.randint(0, 4, count) / 4.0).astype(np.float32)
        elif kind == "all one box":
            self.defaults[:], self.offsets[:] = self.defaults[0], self.offsets[0]
        elif kind == "pairs":  # each second box is suppressed by the one just before it
            order = np.argsort(-self.scores, kind="mergesort")
            self.defaults[order[1::2]] = self.defaults[order[: count // 2 * 2 : 2]]
            self.offsets[order[1::2]] = self.offsets[order[: count // 2 * 2 : 2]]
        elif kind == "nan":
            self.scores[rng.rand(count) < 0.2] = np.nan
            self.offsets[rng.rand(count, 4) < 0.1] = np.nan
        elif kind == "degenerate":
            self.offsets[rng.rand(count) < 0.3, 0] = 500  # right of the picture: clipped to nothing
            self.offsets[rng.rand(count, 4) < 0.05] = np.inf
            self.offsets[rng.rand(count) < 0.2, 2] = -np.inf
        elif kind == "all":
            self.threshold = -1.0
            self.scores -= np.float32(0.5)
            self.scores[rng.rand(count) < 0.2] = -0.0
            self.scores[rng.rand(count) < 0.2] = 0.0

    def run(self, runner, order=0):
        chain = PostProcess(runner, self.defaults, VARIANCES, self.capacity, self.max_faces)
        return chain, chain(self.offsets, self.scores, self.threshold, self.iou, order)

    def select(self):
        return boxes.select(
            self.offsets,
            self.scores,
            self.defaults,
            VARIANCES,
            self.threshold,
            self.iou,
            self.capacity,
            self.max_faces,
        )


def assert_equal(runner, case, order=0):
    """The whole chain, exactly. For cases in which exp is exact."""
    _, (faces, candidates, not_numbers) = case.run(runner, order)
    want = case.select()
    assert faces["default_box"].tolist() == want.indices.tolist()
    assert faces["box"].tobytes() == (want.boxes + np.float32(0)).tobytes()
    assert faces["score"].tolist() == want.scores.tolist()
    assert max(0, candidates - case.capacity) == want.overflow
    assert not_numbers == np.isnan(case.scores).sum()


def assert_same(runner, case, order=0):
    """In two steps: the decoded boxes nearly, what follows from them exactly."""
    chain, (faces, candidates, _) = case.run(runner, order)
    with np.errstate(invalid="ignore"):
        passing = np.flatnonzero(case.scores >= np.float32(case.threshold))
    ranked = passing[np.argsort(-case.scores[passing], kind="mergesort")][: case.capacity]
    want = boxes.decode(case.offsets[ranked], case.defaults[ranked], VARIANCES)
    decoded = chain.boxes[: len(ranked)]
    np.testing.assert_allclose(decoded, want, rtol=0, atol=3e-7)
    proper = np.all(decoded[:, 2:] > decoded[:, :2], axis=1)
    kept = boxes.nms(decoded[proper], case.iou)[: case.max_faces]
    assert faces["default_box"].tolist() == ranked[proper][kept].tolist()
    assert faces["box"].tobytes() == decoded[proper][kept].tobytes()
    assert candidates == len(passing)


KINDS = ("plain", "ties", "all one box", "pairs", "nan", "degenerate", "all")


@pytest.mark.parametrize("kind", KINDS)
def test_equals_numpy(nms_kernels, kind):
    """Three hundred cases of each kind, every thread order."""
    rng = np.random.RandomState(KINDS.index(kind))
    for number in range(100):
        count = int(rng.choice([1, 2, 63, 64, 65, 127, 129, 255, 257, 300]))
        settings = dict(
            threshold=float(rng.choice([0.0, 0.25, 0.5, 0.95])),
            iou=float(rng.choice([0.0, 0.3, 0.45, 0.7, 1.0])),
            capacity=int(rng.choice([1, 64, 100, 4096])),
            max_faces=int(rng.choice([1, 5, 64, 65, 750])),
        )
        case = Case(rng, count, kind, **settings)
        for order in ORDERS:
            assert_equal(nms_kernels, case, order)


def test_sizes_from_the_network_too(nms_kernels):
    rng = np.random.RandomState(20)
    for number in range(200):
        case = Case(rng, int(rng.randint(1, 400)), "sizes", threshold=0.2)
        assert_same(nms_kernels, case, ORDERS[number % 3])


@pytest.mark.parametrize("count,capacity", [(8732, 4096), (8732, 8732), (5000, 5000)])
def test_every_default_box_over_the_threshold(nms_kernels, count, capacity):
    rng = np.random.RandomState(21)
    case = Case(rng, count, "plain", threshold=0.0, capacity=capacity)
    assert_equal(nms_kernels, case, order=1)


def test_nothing_over_the_threshold(nms_kernels):
    case = Case(np.random.RandomState(22), 500, "plain", threshold=2.0)
    assert_equal(nms_kernels, case)


def test_only_nan(nms_kernels):
    case = Case(np.random.RandomState(23), 500, "plain")
    case.scores[:] = np.nan
    assert_equal(nms_kernels, case)


def test_the_threshold_itself_passes_and_an_overlap_equal_to_the_limit_stays(nms_kernels):
    case = Case(np.random.RandomState(24), 2, "plain", threshold=0.75, iou=0.5)
    case.defaults = np.array([[0.5, 0.25, 1.0, 0.5], [0.25, 0.25, 0.5, 0.5]], np.float32)
    case.offsets[:] = 0
    case.scores = np.array([0.875, 0.75], np.float32)
    assert_equal(nms_kernels, case)
    assert len(case.select().indices) == 2
    case.iou = 0.499
    assert_equal(nms_kernels, case)
    assert len(case.select().indices) == 1


def test_an_overflow_keeps_the_best_and_counts_the_rest(nms_kernels):
    case = Case(np.random.RandomState(25), 1000, "plain", threshold=0.0, iou=1.0, capacity=70)
    _, (faces, candidates, _) = case.run(nms_kernels, order=7)
    assert faces["score"].tolist() == sorted(case.scores.tolist(), reverse=True)[:70]
    assert candidates == 1000


def test_the_same_memory_serves_frame_after_frame(nms_kernels):
    """Many candidates, then few, then none: nothing of an earlier frame may show."""
    rng = np.random.RandomState(26)
    case = Case(rng, 700, "plain")
    chain = PostProcess(nms_kernels, case.defaults, VARIANCES, 4096, 750)
    for threshold in (0.0, 0.9, 2.0, 0.5, 0.99, 0.0):
        case.threshold = threshold
        faces, _, _ = chain(case.offsets, case.scores, threshold, case.iou)
        assert faces["default_box"].tolist() == case.select().indices.tolist()


def test_impossible_launches_are_refused(nms_kernels):
    with pytest.raises(KernelError, match="invalid launch configuration"):
        nms_kernels.launch("collect", (0,), (64,), [0, 0, 0.5, 0, 0])
    with pytest.raises(KernelError, match="invalid launch configuration"):
        nms_kernels.launch("collect", (1,), (2048,), [0, 0, 0.5, 0, 0])


def check_everything(runner):
    rng = np.random.RandomState(30)
    for kind in KINDS:
        for count in (65, 300):
            case = Case(rng, count, kind, threshold=0.25, capacity=129, max_faces=30)
            for order in ORDERS:
                assert_equal(runner, case, order)
    test_the_threshold_itself_passes_and_an_overlap_equal_to_the_limit_stays(runner)
    test_the_same_memory_serves_frame_after_frame(runner)


def test_the_checks_pass_on_the_sound_kernels(nms_kernels):
    assert passes(nms_kernels)


@pytest.mark.parametrize("what,old,new", MUTANTS, ids=[what for what, _, _ in MUTANTS])
def test_planted_faults_are_caught(what, old, new, tmp_path, cache_folder):
    with open(compiler.source_path("nms"), encoding="utf-8") as file:
        source = file.read()
    assert source.count(old) == 1, old
    mutant = tmp_path / "nms.cu"
    mutant.write_text(source.replace(old, new))
    runner = Runner(compiled_kernels(str(mutant), cache_folder + "/mutants"))
    assert not passes(runner), what


def passes(runner):
    """``check_everything`` in a process of its own: a broken kernel may write anywhere."""
    child = os.fork()
    if not child:
        faulthandler.disable()
        try:
            check_everything(runner)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
