"""What Tint adds to loops of a step, and over logits: a counter wherever it cannot prove that a loop ends.

Drivers do not unroll a loop with two ways out, nor what stands around it, and arrays in registers that such loops index
go to memory: INT8 activations of an 8B shape lost a third of their speed in Dawn (H200). Tint proves loops finite that
count by ones up to a constant.
"""

from __future__ import annotations

import re

import pytest

from tests.support.dawn import said_by, swiftshader
from wgsl_kernels import Adapter
from workbench.formats.text import parse_format
from workbench.known import known
from workbench.model_bench.synthetic import RandomSource
from workbench.runtime import wgpu_executor
from workbench.runtime.export import PROMISED, programs_for
from workbench.runtime.launch import Workload, resolve
from workbench.runtime.link import link_kernel

SUBGROUPS = Adapter(subgroups=True, subgroup_size=32)
SHAPE = {
    **{"model_type": "llama", "vocab_size": 8192, "hidden_size": 1024, "intermediate_size": 2048},
    **{"num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 2, "rms_norm_eps": 1e-5},
}
#: Loops whose ends are known only when they run (positions of a cache, subgroups of a workgroup), and turns of norms.
COUNTED = {
    **{"attention_split/teams": 1, "argmax_reduce/row": 1, "attention/tile": 3},
    **{"rms_norm/row": 4, "rms_norm[a8]/row": 1},
}
#: The same of what goes through rows of logits: sums and maxima of a workgroup end with its subgroups.
OVER_LOGITS = {
    **dict.fromkeys(("sample", "sample_first", "sample_tally", "sample_sums", "sample_draw", "tell"), 0),
    **dict.fromkeys(("argmax", "argmax_parts", "argmax_reduce", "top_k"), 1),
    **dict.fromkeys(("exp_sums", "softmax", "target_log_likelihood", "log_probabilities", "divergence"), 2),
}
GUARD = re.compile(r"%tint_loop_idx\S* = OpVariable")


def counters(sources: list[str]) -> list[int]:
    """How many loops of each source Tint guards."""
    if (icd := swiftshader()) is None:
        pytest.skip("no software adapter of Chromium's was found")
    marked = [f"{code}\nconst SOURCE_{n} = {n};\n" for n, code in enumerate(sources)]
    environment = {"VK_DRIVER_FILES": icd, "VK_ICD_FILENAMES": icd}
    said = said_by("dump_wgsl_node.js", {"sources": marked, "features": ["subgroups"]}, environment)
    found = {}
    for dump in said.split("// Dumped WGSL:")[1:]:
        code, _, spirv = dump.partition("/* Dumped SPIRV disassembly */")
        found[int(known(re.search(r"const SOURCE_(\d+)", code))[1])] = len(GUARD.findall(spirv))
        assert "OpFunction" in spirv
    return [found[n] for n in range(len(sources))]


@pytest.mark.parametrize(
    "head, activations",
    [
        ("greedy", "f32"),
        ("greedy", "int8"),
        ("last", "f32"),
        pytest.param("last", "int8", marks=pytest.mark.release),
    ],
)
def test_loops_of_a_decoded_token_and_of_a_prompt_end_for_all_that_tint_knows(head, activations, monkeypatch):
    monkeypatch.setattr(wgpu_executor, "CHUNKS", (64,))
    source = RandomSource("random", SHAPE, parse_format("int4/128"))
    [program] = programs_for(source, activations, SUBGROUPS, 512, PROMISED.nbytes, (head,))
    labels = [each.label for each in program.pipelines]
    guarded = counters([program.modules[each.module] for each in program.pipelines])
    assert dict(zip(labels, guarded, strict=True)) == {each: COUNTED.get(each, 0) for each in labels}


def test_loops_over_logits_end_for_all_that_tint_knows():
    found = {}
    for name in OVER_LOGITS:
        work = Workload.random(resolve(name))
        [variant] = work.kernel.variants
        linked = link_kernel(work.kernel, work.sizes, work.types, SUBGROUPS, variant, dialect="tint")
        found[name] = linked.module.code
    assert dict(zip(found, counters(list(found.values())), strict=True)) == OVER_LOGITS


def test_a_loop_of_which_tint_does_not_know_that_it_ends_has_a_counter():
    code = """@group(0) @binding(0) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1) fn main() { for (var i = 0u; i < 9u; i += STEP) { y[i] = i; } }
const STEP = """
    assert counters([f"{code}1u;", f"{code}2u;"]) == [0, 1]
