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


def test_the_baseline_runs_in_f32_unless_asked(folders, capsys):
    """The same model with an INT8 cache loses something, which a baseline with that cache would hide."""
    base, folder = folders
    common = ("perplexity", "--model", base, "--text", folder / "text.txt", "--protocol", "disjoint-64")
    common = (*common, "--baseline", base, "--backend", "torch", "--max-windows", 2, "--quiet")
    for option, value, named in (("cache", "int8", "f32 activations, int8 cache"), ("dtype", "f16", "f16")):
        status, said, _ = run(capsys, *common, f"--{option}", value)
        lines = dict(line.split(": ", 1) for line in said.splitlines())
        assert status == 0 and f"torch, {named}" in lines["backend"]
        assert "(torch, f32 activations, f32 cache)" in lines["baseline"]
        found = json.loads(run(capsys, *common, f"--{option}", value, "--json")[1])
        assert found["baseline"]["difference_rms"] > 1e-6
        assert (
            found["baseline"]["provenance"]["activations"]
            == found["baseline"]["provenance"]["cache"]
            == "f32"
        )
        same = run(capsys, *common, f"--{option}", value, f"--baseline-{option}", value, "--json")[1]
        assert json.loads(same)["baseline"]["difference_rms"] == 0


@pytest.mark.parametrize("option", ["--baseline-dtype", "--baseline-cache"])
def test_a_precision_without_a_baseline_that_runs_is_refused(folders, capsys, tmp_path, option):
    base, folder = folders
    common = ("perplexity", "--model", base, "--text", folder / "text.txt", "--protocol", "disjoint-64")
    common = (*common, "--backend", "torch", "--max-windows", 1, "--quiet", option, "f16")
    status, _, shown = run(capsys, *common)
    assert status == 2 and f"{option} is of a --baseline that runs" in shown
    (tmp_path / "kept").write_bytes(b"x")
    status, _, shown = run(capsys, *common, "--baseline", tmp_path / "kept")
    assert status == 2 and shown.startswith("workbench: error: ")


def test_int8_activations_are_measured_on_both_backends(folders, capsys, adapter):
    _, folder = folders
    common = ("perplexity", "--model", folder / "int4", "--text", folder / "text.txt")
    common = (*common, "--protocol", "disjoint-64", "--backend", "torch", "--max-windows", 2, "--quiet")
    common = (*common, "--dtype", "int8")
    found = json.loads(run(capsys, *common, "--noise-floor", "wgpu", "--json")[1])
    floor = found["noise_floor"]
    assert (floor["backend"], floor["provenance"]["activations"]) == ("wgpu", "int8") and floor["rms"] > 0
    assert floor["kind"] == "INT8 activation noise floor" and floor["tokens"] == found["tokens_scored"]
    status, _, shown = run(capsys, *common, "--noise-floor", "torch")
    assert status == 2 and "the model runs there already" in shown
