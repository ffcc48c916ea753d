"""catmerge's methods as algorithms of FusionBench, on model pools of the real package."""

import subprocess
import sys

import pytest

import catmerge
import networks

torch = networks.torch
pytest.importorskip("fusion_bench")
from fusion_bench.modelpool import BaseModelPool  # noqa: E402


class Pool(BaseModelPool):
    """A pool of models in memory, with training data."""

    def __init__(self, models, data=None):
        super().__init__(models)
        self.data = data

    has_train_dataset = property(lambda self: self.data is not None)

    def load_train_dataset(self, name, *arguments, **keywords):
        return self.data[name]


def pool(name, data=True):
    base = networks.make(name)
    models = {"_pretrained_": base}
    models.update({task: networks.tuned(base, seed) for seed, task in enumerate("ab", 2)})
    given = None
    if data:
        given = {}
        for task in "ab":
            batch = networks.samples(name, ord(task), count=4)
            given[task] = [{key: value[i] for key, value in batch.items()} for i in range(4)]
    return Pool(models, given)


def states(models):
    return {name: model.state_dict() for name, model in models.items()}


@pytest.mark.parametrize("name", networks.NAMES)
def test_algorithms_are_the_merges_of_catmerge(name):
    from catmerge import fusion_bench

    for algorithm, method, settings in (
        (fusion_bench.TsvM, "tsv-m", {}),
        (fusion_bench.IsoCts, "iso-cts", {"alpha": 0.8}),
        (fusion_bench.TaskArithmetic, "task-arithmetic", {"alpha": 0.4}),
        (fusion_bench.Ties, "ties", {"density": 0.4}),
    ):
        models = pool(name, data=False)
        base = models.load_model("_pretrained_")
        wanted, _ = catmerge.merge(
            {key: value.clone() for key, value in base.state_dict().items()},
            {task: models.load_model(task).state_dict() for task in "ab"},
            method,
            model_type=base.config.model_type,
            **settings,
        )
        merged = algorithm(**settings).run(models)
        found = merged.state_dict()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    "method, name",
    [("Lot", "llama"), ("Regmean", "llama"), *(("Cat", name) for name in networks.NAMES)],
)
def test_features_come_from_the_training_data_of_the_pool(method, name):
    from catmerge import fusion_bench

    models = pool(name)
    base = models.load_model("_pretrained_")
    start = {key: value.clone() for key, value in base.state_dict().items()}
    features = {}
    for task in "ab":
        with catmerge.record(models.load_model(task)) as recorded, torch.no_grad():
            for first in (0, 2):
                rows = [models.data[task][i] for i in (first, first + 1)]
                models.load_model(task)(
                    **{key: torch.stack([r[key] for r in rows]) for key in rows[0]}
                )
        features[task] = recorded
    wanted, _ = catmerge.merge(
        start,
        {task: models.load_model(task).state_dict() for task in "ab"},
        method.lower(),
        statistics=features,
        model_type=base.config.model_type,
    )
    algorithm = getattr(fusion_bench, method)(num_samples=4, batch_size=2)
    found = algorithm.run(models).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    # RegMean has no rule for scales, and says so of their statistics.
    assert all("norm" in warning for warning in algorithm.report.warnings)
    with pytest.raises(catmerge.Error, match="no train_datasets"):
        getattr(fusion_bench, method)().run(pool("llama", data=False))


def test_configurations_make_the_algorithms(tmp_path):
    hydra = pytest.importorskip("hydra")
    omegaconf = pytest.importorskip("omegaconf")
    done = subprocess.run(
        [sys.executable, "-m", "catmerge.fusion_bench", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    paths = sorted((tmp_path / "method" / "catmerge").glob("*.yaml"))
    assert {"cat.yaml", "tsv_m.yaml", "ties.yaml", "lot.yaml"} <= {path.name for path in paths}
    for path in paths:
        algorithm = hydra.utils.instantiate(omegaconf.OmegaConf.load(path))
        assert algorithm.catmerge_name == path.stem.replace("_", "-")
    # The defaults in the files are the method's own.
    made = hydra.utils.instantiate(
        omegaconf.OmegaConf.load(tmp_path / "method" / "catmerge" / "tsv_m.yaml")
    )
    found = made.run(pool("vit", data=False)).state_dict()
    from catmerge import fusion_bench

    wanted = fusion_bench.TsvM().run(pool("vit", data=False)).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
