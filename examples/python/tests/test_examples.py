"""The programs of examples/, in short."""

import pathlib
import subprocess
import sys

import pytest

import catmerge

torch = pytest.importorskip("torch")
FOLDER = pathlib.Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def _programs_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def test_merge_state_dicts(tmp_path):
    torch.manual_seed(1)
    base = {"layer.weight": torch.randn(5, 4), "layer.bias": torch.randn(5)}
    torch.save(base, tmp_path / "base.pt")
    experts = [{name: t + 0.1 * torch.randn_like(t) for name, t in base.items()} for _ in "ab"]
    for name, expert in zip("ab", experts):
        torch.save(expert, tmp_path / f"{name}.pt")
    paths = [str(tmp_path / name) for name in ("base.pt", "a.pt", "b.pt", "merged.pt")]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "merge_state_dicts.py"), "task-arithmetic", *paths],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wanted, _ = catmerge.merge(base, experts, "task-arithmetic")
    found = torch.load(tmp_path / "merged.pt", weights_only=True)
    assert all(torch.equal(found[name], wanted[name]) for name in base)


def test_any_network(capsys):
    import any_network

    any_network.main(steps=4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("recorded: 16 parameters; {}")
    assert [line.split()[0] for line in lines[2:]] == [
        "base",
        "each",
        "task-arithmetic",
        "cat",
        "tsv-m",
        "lot",
    ]


def test_sweep(capsys, tmp_path):
    import sweep

    sweep.main(str(tmp_path / "sweep.png"), steps=4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["lambda 0", "lambda 1", "lambda 5"]
    assert (tmp_path / "sweep.png").exists() or "matplotlib" in lines[-1]


def test_language_models(capsys):
    pytest.importorskip("transformers")
    import language_models

    language_models.main(steps=4)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "perplexity",
        "base",
        "each",
        "average",
        "task-arithmetic",
        "cat",
        "lot",
    ]
