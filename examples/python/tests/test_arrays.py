"""Arrays in and out: types, strides, families, errors, memory."""

import array
import resource
import tracemalloc

import numpy as np
import pytest

import catmerge


@pytest.mark.parametrize("dtype, result", [("f8", "f8"), ("f4", "f4"), ("f2", "f4")])
def test_types(rng, dtype, result):
    base = rng.standard_normal((4, 6)).astype(dtype)
    expert = rng.standard_normal((4, 6)).astype(dtype)
    vector = catmerge.task_vector(base, expert)
    assert type(vector) is np.ndarray and vector.dtype == np.dtype(result)
    np.testing.assert_array_equal(vector, expert.astype(result) - base.astype(result))


def test_bfloat16(rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    base = rng.standard_normal((4, 6)).astype(ml_dtypes.bfloat16)
    expert = rng.standard_normal((4, 6)).astype(ml_dtypes.bfloat16)
    vector = catmerge.task_vector(base[::-1], expert[::-1])
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector, expert[::-1].astype("f4") - base[::-1].astype("f4"))
    catmerge.add_task_vector(base, np.ones((4, 6), "f4"), 0.5)
    assert base.dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.T,
        lambda a: a[::-1],
        lambda a: a[:, ::-2],
        lambda a: a[1::2, 2:],
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: np.broadcast_to(a[:, :1], a.shape),
        lambda a: a[:0],
        lambda a: a[:1, :1],
        lambda a: a[0],
        lambda a: a[:, 1][::-1],
    ],
)
def test_strides(rng, view):
    base, expert = view(rng.standard_normal((6, 8))), view(rng.standard_normal((6, 8)))
    np.testing.assert_array_equal(catmerge.task_vector(base, expert), expert - base)


def test_mixed_types_and_read_only(rng):
    base = rng.standard_normal((3, 5)).astype("f4")
    expert = rng.standard_normal((3, 5))
    base.setflags(write=False)
    expert.setflags(write=False)
    vector = catmerge.task_vector(base, expert)
    assert vector.dtype == np.float32 and vector.flags.writeable
    np.testing.assert_allclose(vector, expert - base, rtol=1e-6)
    with pytest.raises(catmerge.Error, match="read-only"):
        catmerge.subtract_base(np.zeros((3, 5)), expert)


def test_other_buffers():
    values = array.array("d", [1.0, 2.0, 3.0])
    vector = catmerge.task_vector(values, memoryview(array.array("d", [2.0, 4.0, 6.0])))
    np.testing.assert_array_equal(vector, [1, 2, 3])


def test_in_place(rng):
    base, expert = rng.standard_normal((2, 3, 4))[:2]
    before = expert.copy()
    catmerge.subtract_base(base, expert)
    np.testing.assert_array_equal(expert, before - base)
    catmerge.add_task_vector(expert, base, 2.0)
    np.testing.assert_allclose(expert, before + base)
    part = np.zeros((4, 8), "f2")
    catmerge.add_task_vector(part[::2, ::-2], np.ones((2, 4)))
    assert part.sum() == 8


@pytest.mark.parametrize(
    "wrong, words",
    [
        (np.zeros((2, 2), "i8"), "NumPy array of int64"),
        (np.zeros((2, 2), "?"), "NumPy array of bool"),
        (np.zeros((2, 2), "c8"), "complex64"),
        (np.zeros((2, 2), ">f4"), "other order"),
        (np.zeros((2, 2), object), "object"),
        ([[1.0, 2.0], [3.0, 4.0]], "of type list"),
        ("weights", "of type str"),
        (b"weights", "of type bytes"),
        (3.0, "of type float"),
    ],
)
def test_refused(wrong, words):
    with pytest.raises(catmerge.Error, match=words) as problem:
        catmerge.task_vector(np.zeros((2, 2)), wrong)
    assert "accepted are arrays of float64" in str(problem.value)
    assert isinstance(problem.value, ValueError)


class OnDevice:
    """A tensor on a GPU, as far as DLPack tells."""

    shape = (2, 2)

    def __dlpack__(self, **_):
        raise AssertionError("not to be called")

    def __dlpack_device__(self):
        return (2, 0)


class OnProcessor:
    """NumPy's memory by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **_):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack(rng):
    with pytest.raises(catmerge.Error, match="not in the processor's memory"):
        catmerge.task_vector(np.zeros((2, 2)), OnDevice())
    base, expert = rng.standard_normal((2, 4, 6)).astype("f4")
    for view in (lambda a: a, lambda a: a.T, lambda a: a[::2, 1:]):
        found = catmerge.task_vector(OnProcessor(view(base)), OnProcessor(view(expert)))
        np.testing.assert_array_equal(found, view(expert) - view(base))
    with pytest.raises(catmerge.Error, match="accepted are"):
        catmerge.task_vector(OnProcessor(np.zeros(3, "i4")), np.zeros(3))


def test_shapes():
    with pytest.raises(catmerge.Error, match="reshape"):
        catmerge.task_vector(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
    with pytest.raises(catmerge.Error, match="expert"):
        catmerge.task_vector(np.zeros((2, 2)), np.zeros((2, 3)))


def test_no_copies():
    """Large inputs are used in place: no memory of their size is taken."""
    rows = np.broadcast_to(np.arange(64, dtype="f4"), (400_000, 64))  # would be 102 MB
    vector = np.ones((2, 64), "f4")
    catmerge.feature_shift("scale", rows[:100], vector[0])  # whatever is allocated once
    before = _peak()
    tracemalloc.start()
    assert catmerge.feature_shift("scale", rows, vector[0], threads=1) > 0
    statistics = catmerge.feature_statistics()
    statistics.update(rows)
    catmerge.conflict_matrix("linear", [statistics], [vector])
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    assert _peak() - before < 20_000_000


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
