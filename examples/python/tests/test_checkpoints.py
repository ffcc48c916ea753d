"""merge_checkpoints: the program's merge with all its options, and the program itself."""

import json
import subprocess
import sys

import numpy as np
import pytest

import catmerge
from support import FAMILY, TASKS, run_program, write_safetensors

pytestmark = pytest.mark.filterwarnings("ignore::catmerge.MergeWarning")


def heads(folder="heads"):
    return {task: FAMILY / folder / f"{task}.safetensors" for task in TASKS}


def test_samples_and_reports(vision, tmp_path):
    """Everything chosen by samples and heads; reports as files and as an object."""
    options = dict(samples=vision["samples"], heads=heads(), sample_count=8)
    seen = []
    report = catmerge.merge_checkpoints(
        vision["base"], vision["experts"], tmp_path / "out", "auto",
        report=[tmp_path / "r.html", str(tmp_path / "r.json")],
        progress=lambda *step: seen.append(step), **options,
    )
    assert report.data["choice"] and report.data["tasks"] == list(TASKS)
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["parameters"] == report.data["parameters"]
    assert "<html" in (tmp_path / "r.html").read_text()
    assert report.summary in str(report) and "<iframe" in report._repr_html_()
    phases = {phase for phase, _, _ in seen}
    assert any("merging" in phase for phase in phases)
    assert all(0 <= done <= total for _, done, total in seen)

    again = catmerge.merge_checkpoints(
        vision["base"], list(vision["experts"].values()), tmp_path / "out", "auto", overwrite=True,
        threads=1, samples=list(vision["samples"].values()), head=list(heads().values()),
        sample_count=8,
    )
    assert again.data is None and again._repr_html_().startswith("<pre>")
    with pytest.raises(catmerge.Error, match="report=True"):
        again.page()


def test_alpha_auto(vision, tmp_path):
    report = catmerge.merge_checkpoints(
        vision["base"], vision["experts"], tmp_path / "out", "ties", alpha="auto", density=0.2,
        samples=vision["samples"], heads=heads(), sample_count=4, report=True,
    )
    assert report.data["catmerge"]["settings"]["method"] == "ties:density=0.2"
    assert "Alpha is" in report.summary


def test_shards(vision, tmp_path):
    catmerge.merge_checkpoints(
        str(vision["base"]), vision["experts"], tmp_path / "out", "average", max_shard_size="1MB",
        out_dtype="f32", include=["*.weight"], weights={"kana": 2},
    )
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    assert (tmp_path / "out" / "config.json").exists()


def test_errors(vision, tmp_path):
    base, experts = vision["base"], vision["experts"]
    out = tmp_path / "out"
    refused = [
        (dict(method="catt"), "no method 'catt'"),
        (dict(method="cat"), "features are needed: give features or samples"),
        (dict(method="average", colour="red"), "colour: average has no such setting"),
        (dict(method="average", out_dtype="f8"), "out_dtype"),
        (dict(method="average", overwrite="yes"), "expected True or False"),
        (dict(method="average", quiet=True), "quiet"),
        (dict(method="average", report="r.txt"), "report: expected a name that ends in"),
        (dict(method="auto", samples={"digits": "x"}), "the expert 'greek' has none"),
        (dict(method="auto", samples=vision["samples"], features=vision["features"]), "excludes"),
        (dict(method="average", threads=0), "threads"),
    ]
    for options, words in refused:
        with pytest.raises(catmerge.Error, match=words):
            catmerge.merge_checkpoints(base, experts, out, **options)
    with pytest.raises(catmerge.Error, match="nothing"):
        catmerge.merge_checkpoints(tmp_path / "nothing", experts, out)
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with pytest.raises(catmerge.Error, match="exists"):
        catmerge.merge_checkpoints(base, experts, out, "average")


def test_what_progress_raises_ends_the_merge(vision, tmp_path):
    class Enough(Exception):
        pass

    def stop(phase, done, total):
        if done == 10:
            raise Enough

    with pytest.raises(Enough):
        catmerge.merge_checkpoints(
            vision["base"], vision["experts"], tmp_path / "out", "ties", progress=stop
        )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Enough):
        catmerge.merge(vision["base"], vision["experts"], "average", progress=stop)


def test_non_finite_values(tmp_path):
    weights = {"a.weight": np.ones((3, 3), "f4")}
    wrong = {"a.weight": np.full((3, 3), np.nan, "f4")}
    base = write_safetensors(tmp_path / "base.safetensors", weights)
    expert = write_safetensors(tmp_path / "expert.safetensors", wrong)
    with pytest.raises(catmerge.Error, match="not finite"):
        catmerge.merge_checkpoints(base, {"x": expert}, tmp_path / "out.safetensors", "average")
    assert not (tmp_path / "out.safetensors").exists()


def test_program(tmp_path):
    assert run_program("--version").strip() == "catmerge " + catmerge.__version__
    assert "ties" in run_program("methods")
    done = subprocess.run(
        [sys.executable, "-m", "catmerge", "merge"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "--base" in done.stderr


def test_every_option_is_known():
    """Each option of `catmerge merge` is a keyword of merge_checkpoints."""
    from catmerge import _words

    for option in _words._options().values():
        name = option["name"].replace("-", "_")
        if name in ("base", "expert", "output", "method", "quiet", "verbose"):
            continue
        value = True if option["flag"] else "1"
        words = _words.words_of("average", {name: value})
        assert any(word.startswith("--" + option["name"]) for word in words), name
