"""`workbench perplexity` with kept baselines, on a trained checkpoint through the references."""

from __future__ import annotations

import json

import pytest

from workbench import cli
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.spec import WeightFormat


@pytest.fixture(scope="module")
def folders(shared, tmp_path_factory):
    base = shared / "models" / "stories260K-hf"
    folder = tmp_path_factory.mktemp("command")
    convert(base, folder / "int4", ConvertOptions(WeightFormat("int4", block_size=32)))
    (folder / "text.txt").write_text("Once upon a time there was a little girl named Lily. " * 40)
    return base, folder


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = cli.main([str(each) for each in arguments])
    return status, *capsys.readouterr()


def test_a_baseline_is_kept_and_used(folders, capsys):
    base, folder = folders
    common = (
        "--text",
        folder / "text.txt",
        "--protocol",
        "disjoint-128",
        "--backend",
        "torch",
        "--quiet",
        "--json",
    )
    kept = folder / "base.logits"
    status, _, _ = run(capsys, "perplexity", "--model", base, *common, "--save-baseline", kept, "--top-k", 32)
    assert status == 0 and kept.is_file()
    model = ("perplexity", "--model", folder / "int4", *common, "--baseline")
    later, together = (json.loads(run(capsys, *model, baseline)[1])["baseline"] for baseline in (kept, base))
    assert later["ln_ratio"] == pytest.approx(together["ln_ratio"], rel=1e-9)
    assert later["kl_truncation"]["top_k"] == 32 and later["kl_mean"] == pytest.approx(
        together["kl_mean"], rel=0.02
    )
    status, _, shown = run(capsys, *model, kept, "--protocol", "disjoint-64")
    assert status == 2 and "stored baseline is of another protocol: disjoint-128" in shown
    status, _, shown = run(capsys, *model, folder / "text.txt")
    assert status == 2 and "not a stored baseline" in shown
    status, _, shown = run(capsys, *model, kept, "--noise-floor", "torch")
    assert status == 2 and "must be a model" in shown


def test_the_noise_floor_is_the_baseline_through_the_other_backend(folders, capsys, adapter):
    base, folder = folders
    status, said, _ = run(
        capsys,
        *(
            "perplexity",
            "--model",
            folder / "int4",
            "--text",
            folder / "text.txt",
            "--protocol",
            "disjoint-64",
        ),
        *(
            "--backend",
            "torch",
            "--baseline",
            base,
            "--noise-floor",
            "wgpu",
            "--max-windows",
            2,
            "--quiet",
            "--json",
        ),
    )
    found = json.loads(said)["baseline"]
    assert status == 0 and found["noise_floor"]["backend"] == "wgpu"
    assert found["noise_floor"]["kl"]["mean"] < 1e-9 < 1e-4 < found["kl_mean"]
