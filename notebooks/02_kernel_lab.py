# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A kernel of one's own, and how it gets faster
#
# Every operation of this workbench is a pair: a WGSL source, and a PyTorch function that computes the same. The
# function says what is right, the WGSL is what runs, and nothing has a time before it has the function's numbers.
# This notebook
#
# 1. compares the library's variants of one operation
# 2. reads a pair: what stands in the file, what is generated in front of it, what the reference says
# 3. writes a new operation in a cell, an INT4 matrix-vector product: first wrong, then right
# 4. makes it faster in steps, each of them measured beside the one before
# 5. does the same in `KernelLab`, by mouse and keyboard
# 6. runs an edited kernel inside a whole model
# 7. says what to change for an operation of your own
#
# It runs on a GPU or on a software adapter. **Where the label says CPU, software computes: the order of the steps
# below may differ from a GPU's**, and the text says where it does. Times on a machine that does other things as well
# are noisy, which is what the spread is for.

# %%
from dataclasses import replace
from pathlib import Path

import torch
from IPython.display import display

import wgsl_kernels
import workbench
from eval.named_texts import named_text
from wgsl_kernels import Cost, Port, Variant, kernel
from wgsl_kernels.reduce import lanes_default, reduction
from workbench.assets import demo_model_path
from workbench.files.writing import write_json
from workbench.show.notebook import table
from workbench.studies.lab import Lab
from workbench.widgets import KernelLab

RESULTS = Path("runs/kernel_lab")  # everything that this notebook writes
RESULTS.mkdir(parents=True, exist_ok=True)
ROWS = COLUMNS = 1024

# %% [markdown]
# ## 1. One operation, several kernels
#
# `linear[int4]` multiplies by weights of four bits, in blocks of 128 columns with a scale and a zero-point each. Its
# variants differ in who computes what: `gemv` gives a few rows to a team of threads, `batch` reads the weights once
# for several tokens, `broadcast` is for adapters with 8 lanes a subgroup, `tile` for prompts. Each is checked against
# the reference in f64 on the same random inputs; those that pass are timed in turns, round by round, so that a busy
# machine or a drifting clock meets all of them alike.

# %%
one_token = workbench.compare(
    "linear[int4]", variants=["gemv", "batch", "broadcast"], rows=ROWS, columns=COLUMNS, block=128
)
display(one_token)

# %%
display(one_token.plot("timing"))

# %% [markdown]
# *error/bound* is the largest error as a share of what the arithmetic allows (rounding errors of a sum of products
# grow with Σ|w||x|); beyond 1 the status would be `wrong numbers`, and there would be no time. Nobody has to
# guess which variant is best at another shape. For several tokens at once:

# %%
rows = []
for tokens in (1, 4, 16):
    found = workbench.compare(
        "linear[int4]",
        variants=["gemv", "batch", "broadcast"],
        rounds=3,
        **{"tokens": tokens, "rows": 512, "columns": 512, "block": 128},
    )
    times = [f"{1e6 * each.timing.median / tokens:,.0f}" for each in found.results]
    rows.append([tokens, *times, found.fastest.variant, next(r.variant for r in found.results if r.chosen)])
display(
    table(
        [
            "tokens",
            "gemv, µs a token",
            "batch",
            "broadcast",
            "fastest here",
            "used where nothing is measured",
        ],
        rows,
    )
)

# %% [markdown]
# The last column is a default written down in the library. `workbench tune MODEL` measures like this for every shape
# of a model and remembers the winners.
#
# ## 2. Reading a pair
#
# RMS normalisation is a short one. The file is plain WGSL. What varies is not in it: types, sizes and the sum over a
# workgroup come from a header that is generated in front, so the same file serves f32 and f16, any width, and
# adapters with subgroups or without.

# %%
norm = workbench.compare("rms_norm", tokens=4, hidden=1024, rounds=3)
result = norm["row"]
header, body = (
    result.wgsl.splitlines()[: result.body_line],
    result.wgsl.splitlines()[result.body_line :],
)
print(f"--- generated, {len(header)} lines")
print("\n".join(header))
print(f"--- wgsl_kernels/{wgsl_kernels.get('rms_norm').variants['row'].file}.wgsl")
print("\n".join(body))

# %%
print(norm.reference_source)

# %% [markdown]
# Names of shapes are constants in upper case (`HIDDEN`), and so are parameters (`EPS`) and tunables (`WORKGROUP`,
# with the values that it may take in the decorator). The decorated function *is* the reference; its inputs come
# rounded to what the buffers hold, and it is computed in f64 to judge by.
#
# ## 3. A product of one's own
#
# Now a new operation: y = W x with weights of four bits, eight to a word, lowest bits first, and one scale for each
# block of a row: w = s (q − 8). Beside the WGSL a pair needs the shapes of its buffers, a reference, and how many
# workgroups to start. Here it also has
#
# - `make_inputs`, since the shapes of `x`, `quants` and `scales` depend on each other;
# - `tolerance`, from the arithmetic: each product and each addition rounds once, so errors stay below a few 2⁻²⁴
#   Σ|w||x|;
# - `cost`: bytes that must be read and written at least, and operations. They make GB/s and the roofline.

# %%
HEAD = """
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> quants: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
const BLOCK = COLUMNS / BLOCKS;
"""

ONE_BY_ONE = """
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.x;
  if (row >= ROWS) { return; }
  var sum = 0.0;
  for (var k = 0u; k < COLUMNS; k++) {
    let q = (quants[row * WORDS + k / 8u] >> (4u * (k % 8u))) & 15u;
    sum += scales[row * BLOCKS + k / BLOCK] * f32(q) * x[k];
  }
  y[row] = sum;
}
"""


def unpacked(quants):
    """Words [rows, words] -> numbers from 0 to 15 [rows, 8 words], lowest bits first."""
    return ((quants.unsqueeze(-1) >> torch.arange(0, 32, 4)) & 15).flatten(1)


def weights(numbers, scales):
    return numbers * scales.repeat_interleave(numbers.shape[1] // scales.shape[1], 1)


def make_inputs(seed=0, rows=ROWS, columns=COLUMNS, block=128):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(-(2**31), 2**31, (rows, columns // 8), generator=generator)
    return {
        "x": torch.randn(columns, generator=generator),
        "quants": words.to(torch.int32),
        "scales": torch.rand(rows, columns // block, generator=generator) / columns**0.5,
    }


def tolerance(arguments, expected):
    magnitude = weights(unpacked(arguments["quants"]) + 8.0, arguments["scales"].double())
    return {"y": 8 * 2.0**-24 * (magnitude @ arguments["x"].double().abs())}


PARTS = {
    "reads": {
        "x": Port(("columns",), "f32"),
        "quants": Port(("rows", "words"), "u32"),
        "scales": Port(("rows", "blocks"), "f32"),
    },
    "writes": {"y": Port(("rows",), "f32")},
    "make_inputs": make_inputs,
    "tolerance": tolerance,
    "cost": lambda s: Cost(
        read=s["rows"] * (s["columns"] / 2 + 4 * s["blocks"]) + 4 * s["columns"],
        written=4 * s["rows"],
        flops=2 * s["rows"] * s["columns"],
    ),
}


def a_row_each(context):
    """Workgroups: a thread for each row, 64 threads in one."""
    return (-(-context["rows"] // 64), 1, 1)


@kernel(wgsl=HEAD + ONE_BY_ONE, grid=a_row_each, **PARTS)
def my_int4(x, quants, scales):
    """y [rows] = W x; w = scale * (q - 8), eight q a word, lowest bits first; a scale for each block of columns."""
    return weights(unpacked(quants) - 8, scales) @ x


wrong = workbench.compare("my_int4")
display(wrong)

# %% [markdown]
# Wrong numbers, so no time. All elements are off, and the five that are listed are all too large, by 3 to 10: as
# much as the outputs themselves. Rounding errors are smaller by orders of magnitude, and have both signs. It is an
# offset: the WGSL forgets to subtract 8, which adds 8 Σ s x to a row, with the same x for all of them. How far
# errors lie from their bounds says what kind of mistake it is. Rounding errors that exceed the bound a little make a
# hump that reaches over the dashed line; a mistake lies decades to the right of it.

# %%
display(wrong.plot("errors"))

# %% [markdown]
# `Lab` keeps versions of a kernel side by side. `edit` compiles a text, runs it once (in another process first:
# nothing can stop a shader that never ends, but a process can be ended) and compares. A first attempt to repair it,
# in haste:

# %%
lab = Lab("my_int4", rounds=5)
version = lab.edit(HEAD + ONE_BY_ONE.replace("f32(q)", "f32(q - 8)"), name="in haste")
[errors] = version.result.errors
print(f"{version.status}: {errors.off} of {errors.elements} are off, the first {errors.first[0]}")

# %% [markdown]
# `q` is unsigned: `q - 8` wraps around below zero, so half of the numbers are near 2³². It compiles, and only
# the comparison finds it. The compiler finds other things, and says in which line of *this* text (generated lines in
# front of it do not count):

# %%
version = lab.edit(
    HEAD + ONE_BY_ONE.replace("f32(q)", "(f32(q) - 8)").replace("var sum = 0.0", "var sum = 0")
)
print(version.status)
for place in version.result.places:
    print(f"{place}\n    {version.text.splitlines()[place.line - 1].strip()}")

# %%
RIGHT = HEAD + ONE_BY_ONE.replace("f32(q)", "(f32(q) - 8.0)")
version = lab.edit(RIGHT, name="right")
print(version.status, f"{1e6 * version.result.timing.median:,.0f} µs")
print(version.diff())

# %% [markdown]
# That is the pair to go on with. Running the decorator again replaces it.

# %%
my_int4 = kernel(op="my_int4", wgsl=RIGHT, grid=a_row_each, **PARTS)(my_int4.reference)
lab = Lab("my_int4", rounds=5)
comparison = lab.run()

# %% [markdown]
# ## 4. Faster
#
# How fast could it be? Every byte of the weights must be read once, and every weight needs a multiplication and an
# addition. The roofline shows both limits of this device, measured by WGSL that does nothing else. What lies far
# below the roof is limited by neither, but by how it is written.

# %%
display(lab.plot("roofline"))

# %% [markdown]
# **A word at a time.** The loop loads each word eight times and the scale for every weight. Load both once, and take
# the eight weights from a register:

# %%
WORDS = """
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.x;
  if (row >= ROWS) { return; }
  var sum = 0.0;
  for (var w = 0u; w < WORDS; w++) {
    let word = quants[row * WORDS + w];
    let scale = scales[row * BLOCKS + 8u * w / BLOCK];
    for (var i = 0u; i < 8u; i++) {
      sum += scale * (f32((word >> (4u * i)) & 15u) - 8.0) * x[8u * w + i];
    }
  }
  y[row] = sum;
}
"""
lab.edit(HEAD + WORDS, name="a word at a time")


def standing(name):
    """How a version compares with the first kernel, from samples of the same rounds."""
    middle, low, high = lab.speedup(name, "wgsl")
    print(f"{name}: {lab[name].status}, {middle:.2f} ({low:.2f} to {high:.2f}) times as fast as the first")


standing("a word at a time")

# %% [markdown]
# **Four at a time, a block at a time.** `unpack4xU8` makes four numbers of one word in one step. The even weights are
# the low halves of the bytes, the odd ones the high halves. And the scale is the same for a whole block, so it can
# wait until the block is summed.

# %%
BLOCKWISE = """
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let row = id.x;
  if (row >= ROWS) { return; }
  var sum = 0.0;
  for (var b = 0u; b < BLOCKS; b++) {
    var part = vec4(0.0);
    for (var w = b * BLOCK / 8u; w < (b + 1u) * BLOCK / 8u; w++) {
      let word = quants[row * WORDS + w];
      let k = 8u * w;
      let even = vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - 8.0;
      let odd = vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu)) - 8.0;
      part += even * vec4(x[k], x[k + 2u], x[k + 4u], x[k + 6u]);
      part += odd * vec4(x[k + 1u], x[k + 3u], x[k + 5u], x[k + 7u]);
    }
    sum += scales[row * BLOCKS + b] * (part.x + part.y + part.z + part.w);
  }
  y[row] = sum;
}
"""
lab.edit(HEAD + BLOCKWISE, name="a block at a time")
standing("a block at a time")

# %% [markdown]
# **Neighbours read neighbours.** So far a thread has a row, so threads that run together read words that lie a whole
# row apart. Memory comes in lines of 64 bytes or more; a thread uses 4 of them at a time. It is better if
# neighbouring threads read neighbouring words: a workgroup shares a row, and its sums meet at the end.
#
# This needs another grid, so it is not another text of the same variant but another *variant*: its own grid, its own
# tunables, and `refuse` for what it cannot do. The sum over the workgroup can be written by hand, as a tree in
# workgroup memory with barriers between its steps. Or it is `workgroup_sum` of the library, which the header brings
# by subgroups where the adapter has them. Several rows a workgroup (`ROWS_PER_GROUP`) use each value of `x` more than
# once.

# %%
BY_HAND = """
var<workgroup> parts: array<f32, WORKGROUP>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  for (var r = 0u; r < ROWS_PER_GROUP; r++) {
    let row = id.x * ROWS_PER_GROUP + r;
    var sum = 0.0;
    for (var w = lane; w < WORDS; w += WORKGROUP) {
      let word = quants[row * WORDS + w];
      let k = 8u * w;
      let even = vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - 8.0;
      let odd = vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu)) - 8.0;
      sum += scales[row * BLOCKS + k / BLOCK] * (dot(even, vec4(x[k], x[k + 2u], x[k + 4u], x[k + 6u]))
        + dot(odd, vec4(x[k + 1u], x[k + 3u], x[k + 5u], x[k + 7u])));
    }
    parts[lane] = sum;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
      if (lane < half) { parts[lane] += parts[lane + half]; }
      workgroupBarrier();
    }
    if (lane == 0u) { y[row] = parts[0]; }
    workgroupBarrier();
  }
}
"""

BY_LIBRARY = """
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = id.x * ROWS_PER_GROUP;
  var sums: array<f32, ROWS_PER_GROUP>;
  for (var w = lane; w < WORDS; w += WORKGROUP) {
    let k = 8u * w;
    let x_even = vec4(x[k], x[k + 2u], x[k + 4u], x[k + 6u]);
    let x_odd = vec4(x[k + 1u], x[k + 3u], x[k + 5u], x[k + 7u]);
    for (var r = 0u; r < ROWS_PER_GROUP; r++) {
      let word = quants[(first + r) * WORDS + w];
      let even = vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - 8.0;
      let odd = vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu)) - 8.0;
      sums[r] += scales[(first + r) * BLOCKS + k / BLOCK] * (dot(even, x_even) + dot(odd, x_odd));
    }
  }
  for (var r = 0u; r < ROWS_PER_GROUP; r++) {
    let total = workgroup_sum(sums[r], lane);
    if (lane == 0u) { y[first + r] = total; }
  }
}
"""


def whole_groups(context):
    """Why a variant that takes several rows a workgroup cannot run here, or None."""
    if context["rows"] % context.sizes.get("rows_per_group", 1):
        return f"{context['rows']} rows are no multiple of {context['rows_per_group']}"


by_hand = Variant(
    "",
    text=HEAD + BY_HAND,
    grid=lambda c: (c["rows"] // c["rows_per_group"], 1, 1),
    tunables={"workgroup": (64, 8, 32, 128), "rows_per_group": (8, 1, 2, 4, 16)},
    defaults=lanes_default,
    refuse=whole_groups,
    why="a workgroup shares a row: neighbouring threads read neighbouring words",
)
by_library = replace(
    by_hand,
    text=HEAD + BY_LIBRARY,
    library=lambda c: (reduction(c),),
    why="as by hand, with the library's sum, and every value of x used for several rows",
)
thread_a_row = {name: Variant("", a_row_each, text=lab.text(name)) for name in ("wgsl", *lab.chosen[1:])}
my_int4 = kernel(
    op="my_int4", variants={**thread_a_row, "by hand": by_hand, "by library": by_library}, **PARTS
)(my_int4.reference)

lab = Lab("my_int4", rounds=5)
comparison = lab.run()
rows = []
for each in comparison.results:
    middle, low, high = lab.speedup(each.variant, "wgsl")
    tunables = ", ".join(f"{name} {value}" for name, value in each.tunables.items())
    rows.append(
        [
            each.variant,
            each.status,
            f"{each.worst('worst'):.3f}",
            f"{1e6 * each.timing.median:,.0f}",
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
            tunables,
        ]
    )
display(table(["step", "status", "error/bound", "µs a call", "times as fast", "tunables"], rows))

# %%
display(lab.plot("timing"))

# %% [markdown]
# On a software adapter the tree by hand loses what the better reading gains: threads of a workgroup are turns of a loop
# there, and each barrier cuts it into two. The library's sum needs no barrier where a workgroup is one subgroup. A GPU
# has other prices: barriers cost little, and threads that read far apart from each other cost much, so expect another
# order there, and run it to see. A statement about speed is a statement about an adapter; the table above is one about
# the adapter in the figure's title.
#
# How many rows a workgroup? That is for measuring too. A version of the same text with other tunables:

# %%
for count in (2, 4, 16):
    lab.edit(
        lab.text("by library"),
        "by library",
        tunables={"rows_per_group": count},
        name=f"{count} rows",
        time=False,
    )
lab.run(["by library", "2 rows", "4 rows", "16 rows"])
library = workbench.compare(
    "linear[int4]", variants=["gemv"], rows=ROWS, columns=COLUMNS, block=128, rounds=5
)
gemv = library["gemv"]
rows_of_gemv = gemv.tunables["teams"] * gemv.tunables["rows_per_team"]
named = [(each.variant, each.tunables["rows_per_group"], each.timing) for each in lab.comparison.results]
named.append(("the library's gemv (with zero-points; in a run of its own)", rows_of_gemv, gemv.timing))
rows = [
    [name, count, f"{1e6 * timing.median:,.0f}", " to ".join(f"{1e6 * each:,.0f}" for each in timing.spread)]
    for name, count, timing in named
]
display(table(["version", "rows a workgroup", "µs a call", "spread"], rows))

# %% [markdown]
# The versions took turns in the same rounds. The last row is another kernel, timed after them: where the machine was
# busier in one of the two runs, its time says little beside theirs.

# %%
display(lab.plot("roofline"))

# %% [markdown]
# What remains to the roof? The library's head comments say what was found to matter there, kernel by kernel: loads of
# 16 bytes, several of them in flight before anything is computed, integer dot products (`linear[int4, a8]`) because
# unpacking to floats costs more than reading. `docs/kernels.md` has the measurements.
#
# ## 5. The same, in a widget
#
# `KernelLab` is a view over the `Lab` above: choose rows of the table to see their errors and differences, change the
# text, press Ctrl+Enter. It is compiled and judged at once, errors stand at their lines, and what passes is timed
# beside everything that is ticked. Any kernel of the library can be chosen in its place. Without a running kernel the
# last table stands here.

# %%
widget = KernelLab(lab)
display(widget)

# %% [markdown]
# What is done there comes back as objects: `widget.selected` is the picked row, `widget.versions[-1].text` the text
# that was written last, `widget.comparison` the last run, and this is `widget.data()`:

# %%
data = widget.data().sort_values("median_s")
rows = [
    [
        row.name_,
        row.status,
        f"{1e6 * row.median_s:,.0f}",
        f"{row.bytes_per_s / 1e9:.2f}",
        f"{row.error_over_bound:.3f}",
    ]
    for row in data.rename(columns={"name": "name_"}).itertuples()
]
display(table(["", "status", "µs", "GB/s", "error/bound"], rows))
best = data.name.iloc[0]
tunables = ", ".join(f"{name} = {value}" for name, value in lab.comparison[best].tunables.items())
(RESULTS / "my_int4.wgsl").write_text(f"// {best}: {tunables}\n{lab.text(best)}")
write_json(RESULTS / "comparison.json", lab.comparison.to_json())
lab.plot("timing").save(RESULTS / "timing.svg")

# %% [markdown]
# ## 6. Inside a whole model
#
# A kernel that is faster alone need not make a model faster. A version that passed runs inside a model that asks for
# it, and nowhere else: with it and without it take turns, and the perplexity says whether the numbers are still the
# same. The model is the embedded one, whose matrices are f16; the lines at the end say where the version runs.

# %%
edited = Lab("linear[f16]", variants=["gemv"], rows=256, columns=768, rounds=3)
edited.edit(edited.text("gemv"), "gemv", tunables={"rows_per_team": 4}, name="four rows a team")
display(
    edited.in_model(demo_model_path(), text=named_text("evaluation"), protocol="disjoint-256", max_windows=2)
)

# %% [markdown]
# `workbench.load(MODEL, library=edited.library())` is such a model, for everything that models are used for. On a GPU
# fused kernels take the place of some products: `Lab("norm_gate_up[int4]")` is how to edit one of those.
#
# ## 7. Your own operation
#
# Copy the cell of section 3 and change, in this order:
#
# 1. the **reference**: the function under the decorator, in plain PyTorch, and its name;
# 2. `reads` and `writes`: a `Port` a buffer with the names of its shape. `Port(("n",))` without a type takes f32 and
#    f16, and the WGSL says `x_type`; numbers that are no buffers go into `params={"factor": float}`;
# 3. the **WGSL**, one thread an element, as simple as it can be. Bindings are numbered as the ports stand, outputs
#    last;
# 4. `grid`: workgroups in x, y and z, at most 65,535 each.
#
# That compares. `make_inputs`, `tolerance` and `cost` have defaults for a first look (random numbers, 2⁻¹⁷ of
# the largest output, every byte once); write them before you believe a figure. Then `KernelLab("my_op", n=1 << 20)`.
#
# A kernel that should also run in a page keeps to what browsers promise: 8 storage buffers, 16 KB of workgroup
# memory, 256 threads a workgroup, and no barrier and no subgroup operation where only some threads come by. A package
# offers its pairs by an entry point, see `docs/measuring.md`; on the command line they are `workbench bench kernels
# --kernel my_op --size n=1048576`.

# %%
# from wgsl_kernels import Port, kernel
#
# @kernel(
#     wgsl="""
# @group(0) @binding(0) var<storage, read> x: array<x_type>;
# @group(0) @binding(1) var<storage, read_write> y: array<y_type>;
# @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
#   if (id.x < N) { y[id.x] = y_type(FACTOR * f32(x[id.x])); }
# }
# """,
#     grid=lambda c: (-(-c["n"] // 64), 1, 1),
#     reads={"x": Port(("n",))},
#     writes={"y": Port(("n",))},
#     params={"factor": float},
# )
# def my_op(x, factor=2.0):
#     return factor * x
#
# KernelLab("my_op", n=1 << 20)

# %% [markdown]
# What this run wrote:

# %%
for path in sorted(RESULTS.rglob("*")):
    print(f"{path.stat().st_size:>10,}  {path.as_posix()}")
