"""Ctrl-C, and other threads of Python during a merge."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import catmerge
from support import write_safetensors

SIZE, COUNT = 768, 24

CHILD = """
import signal
import sys
import numpy as np
import catmerge

# (A shell's background job starts with interrupts ignored, and so would this program.)
signal.signal(signal.SIGINT, signal.default_int_handler)

kind, folder = sys.argv[1:]
started = []

def progress(phase, done, total):
    if not started:
        started.append(1)
        print("started", flush=True)

files = {k: f"{folder}/{k}.safetensors" for k in "ab"}
try:
    if kind == "files":
        catmerge.merge_checkpoints(
            f"{folder}/base.safetensors", files, f"{folder}/out.safetensors", "tsv-m",
            progress=progress, threads=1)
    elif kind == "networks":
        catmerge.merge(f"{folder}/base.safetensors", files, "tsv-m", progress=progress, threads=1)
    else:
        rng = np.random.default_rng(0)
        base = rng.standard_normal((3000, 3000), "f4")
        print("started", flush=True)
        catmerge.tsv_m(base, [base + rng.standard_normal((3000, 3000), "f4") for _ in "ab"],
                       threads=1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(0)
print("finished", flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("large")
    base = None
    for seed, name in enumerate(("base", "a", "b")):
        g = np.random.default_rng(seed)
        weights = {
            f"layers.{i}.fc.weight": g.standard_normal((SIZE, SIZE), "f4") for i in range(COUNT)
        }
        base = base or weights
        if name != "base":
            weights = {n: base[n] + np.float32(0.01) * w for n, w in weights.items()}
        write_safetensors(path / f"{name}.safetensors", weights)
    return path


@pytest.mark.parametrize("kind", ["files", "networks", "parameter"])
def test_ctrl_c(folder, kind):
    before = sorted(path.name for path in folder.iterdir())
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, kind, folder], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "started\n"
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    began = time.monotonic()
    rest, _ = child.communicate(timeout=60)
    assert rest == "interrupted\n"
    assert child.returncode == 0 and time.monotonic() - began < 20
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("kind", ["files", "networks", "steps"])
def test_other_threads_run(folder, kind, tmp_path):
    """A thread of Python counts while a merge computes."""
    count, done = 0, threading.Event()

    def tick():
        nonlocal count
        while not done.is_set():
            count += 1
            time.sleep(0.001)

    files = {k: folder / f"{k}.safetensors" for k in "ab"}
    counter = threading.Thread(target=tick)
    counter.start()
    try:
        time.sleep(0.05)
        first, began = count, time.monotonic()
        if kind == "files":
            catmerge.merge_checkpoints(
                folder / "base.safetensors", files, tmp_path / "o.safetensors", "ties", threads=1
            )
        elif kind == "networks":
            catmerge.merge(folder / "base.safetensors", files, "ties", threads=1)
        else:
            big = np.random.default_rng(0).standard_normal((1200, 1200))
            catmerge.spectral_norm(big, threads=1)
            catmerge.conflict_matrix("linear", [big, big], [big, big], threads=1)
        spent = time.monotonic() - began
    finally:
        done.set()
        counter.join()
    # With the lock held there would be none; a loaded machine may give few.
    assert count - first > 20 * spent


def test_merges_in_several_threads(folder):
    """Independent merges may run at the same time."""
    base = dict(catmerge.open(folder / "base.safetensors"))
    expert = dict(catmerge.open(folder / "a.safetensors"))
    names = list(base)[:4]
    one = {n: base[n] for n in names}
    two = {n: expert[n] for n in names}
    expected, _ = catmerge.merge(one, [two], "task-arithmetic", threads=1)
    results = [None] * 4

    def work(place):
        results[place] = catmerge.merge(one, [two], "task-arithmetic", threads=2)[0]

    workers = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in results:
        for name in names:
            np.testing.assert_array_equal(result[name], expected[name])
