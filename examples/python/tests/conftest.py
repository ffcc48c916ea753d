import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import support  # noqa: E402


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def vision(tmp_path_factory):
    """Paths of a base, three experts, their features and random importances."""
    folder = tmp_path_factory.mktemp("vision")
    base = support.FAMILY / "base"
    found = {"base": base, "experts": {}, "features": {}, "importance": {}, "samples": {}}
    import catmerge

    rng = np.random.default_rng(3)
    for task in support.TASKS:
        expert = support.FAMILY / "experts" / f"{task}.safetensors"
        samples = support.FAMILY / "samples" / f"{task}.safetensors"
        features = folder / f"features_{task}.safetensors"
        support.run_program(
            "features", "--model", expert, "--config", base / "config.json", "--samples", samples,
            "--output", features,
        )
        importance = {
            name: np.square(rng.standard_normal(array.shape)).astype("float32")
            for name, array in catmerge.open(base).items()
            if array.dtype.kind == "f"
        }
        found["experts"][task] = expert
        found["samples"][task] = samples
        found["features"][task] = features
        found["importance"][task] = support.write_safetensors(
            folder / f"importance_{task}.safetensors", importance
        )
    return found
