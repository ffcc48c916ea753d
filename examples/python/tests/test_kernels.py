"""The choice of the compiled part at import. Each case is a process of its own."""

import os
import pathlib
import subprocess
import sys

import catmerge
import numpy as np
import pytest

BUILT = [
    path.name[len("kernels_") :]
    for path in pathlib.Path(catmerge.__file__).parent.glob("kernels_*")
]


def run(code, kernels=None):
    environment = {key: value for key, value in os.environ.items() if key != "CATMERGE_KERNELS"}
    if kernels is not None:
        environment["CATMERGE_KERNELS"] = kernels
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def has_avx2():
    """As the kernel of Linux sees the processor; None where it does not say."""
    info = pathlib.Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    return {"avx2", "fma"} <= words if "sse2" in words else None


def test_the_fastest_that_run_are_chosen():
    ran = run("import catmerge; print(catmerge.kernels, catmerge._core.__file__)")
    name, path = ran.stdout.split()
    assert pathlib.Path(path).parent.name == f"kernels_{name}"
    expected = (
        "native" if "native" in BUILT else "avx2" if "avx2" in BUILT and has_avx2() else "portable"
    )
    if has_avx2() is not None:
        assert name == expected


@pytest.mark.parametrize("name", BUILT)
def test_those_that_are_asked_for_are_loaded(name):
    ran = run("import catmerge; print(catmerge.kernels, catmerge._core.__file__)", name)
    if name == "avx2" and not has_avx2():
        assert "does not run them" in ran.stderr
        return
    found, path = ran.stdout.split()
    assert found == name and pathlib.Path(path).parent.name == f"kernels_{name}"


def test_unknown_kernels_are_refused():
    ran = run("import catmerge", "sse9")
    assert (
        ran.returncode != 0 and "CATMERGE_KERNELS: expected" in ran.stderr and "sse9" in ran.stderr
    )


def test_kernels_of_a_processor_that_is_not_this_one_are_refused():
    if not {"avx2", "portable"} <= set(BUILT):
        pytest.skip("built for one kind of processor")
    # The package is imported with a processor that says no.
    code = (
        "import sys, types; probe = types.ModuleType('catmerge._processor'); probe.runs_avx2 = lambda: False; "
        "sys.modules['catmerge._processor'] = probe; import catmerge; print(catmerge.kernels)"
    )
    assert run(code).stdout.split() == ["portable"]
    assert "does not run them; expected portable" in run(code, "avx2").stderr


def test_kernels_agree_to_rounding(tmp_path):
    rng = np.random.default_rng(5)
    base = rng.normal(size=(37, 29))
    experts = [base + 0.1 * rng.normal(size=base.shape) for _ in range(3)]
    features = [rng.normal(size=(11, 29)) for _ in range(3)]
    np.savez(
        tmp_path / "given.npz",
        base=base,
        **{f"e{k}": e for k, e in enumerate(experts)},
        **{f"x{k}": x for k, x in enumerate(features)},
    )
    code = (
        f"import catmerge, numpy as np; g = np.load({str(tmp_path / 'given.npz')!r}); "
        "m, _ = catmerge.cat_linear(g['base'], [g['e0'], g['e1'], g['e2']], [g['x0'], g['x1'], g['x2']]); "
        f"np.save({str(tmp_path)!r} + '/' + catmerge.kernels, m)"
    )
    results = []
    for name in BUILT:
        if name != "avx2" or has_avx2():
            ran = run(code, name)
            assert ran.returncode == 0, ran.stderr
            results.append(np.load(tmp_path / f"{name}.npy"))
    expected, _ = catmerge.cat_linear(base, experts, features)
    for found in results:
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
