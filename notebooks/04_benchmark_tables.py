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
# # Tables that others can repeat
#
# A number in a table is worth as much as the way back from it: which file, which text, which protocol, which code. In
# this notebook every table is made from records that carry all of this, and can be made again by one command:
#
# 1. a sweep: formats, block sizes and quantizers on one model
# 2. the table and the plot, in any format, and what does not belong together
# 3. going on: what is there is kept, what fails fails alone
# 4. a published number, measured again: pass or fail
# 5. the kernels' table
# 6. two runs compared: configuration first, then what lies beyond the noise
# 7. your own checkpoint
#
# Everything runs on the embedded model (7.3 million parameters, children's stories) in less than three minutes on two
# CPU cores, and what the text says of results is said of it. Sections 1 to 3 take another model by the line
# `MODEL = ...`; section 4 measures published numbers, which belong to their models.

# %%
import csv
import io
from pathlib import Path

from IPython.display import Markdown, display

import workbench
from wgsl_kernels import Port, kernel
from workbench.assets import demo_model_path
from workbench.errors import SweepError
from workbench.kernel_bench import differences, kernels
from workbench.kernel_bench.request import Request
from workbench.show.notebook import table
from workbench.show.progress import Progress
from workbench.studies.fitting import Study
from workbench.sweeps.published import NotHereError, select
from workbench.sweeps.reproduce import listing, markdown, reproduce
from workbench.sweeps.sweep import Sweep
from workbench.widgets import SweepBoard

MODEL = "embedded"  # or a folder, or a hub id: the one line to change
study = Study(demo_model_path() if MODEL == "embedded" else MODEL, "benchmark_tables", quantizes=True)
RESULTS = study.folder  # everything that this notebook writes
RESULTS.mkdir(parents=True, exist_ok=True)
PROTOCOL, BLOCKS = study.protocol("disjoint-512"), study.blocks([64, 256])
print(study)

# %% [markdown]
# ## 1. A sweep
#
# A sweep is a product of axes in a TOML file: models x formats x block sizes x quantizers x protocols. Each
# combination is a *cell*, and the unconverted model is one too, with which the others are paired token by token. More
# windows narrow the error bars; twice as many take twice as long.

# %%
SPEC = """\
[sweep]
max_windows = 3               # of at most 512 tokens; leave it out for the whole text

[texts.stories]
file = "embedded"             # the package's own text; else a file, or dataset = "wikitext2"

[grid]
model = "{model}"             # a folder or a hub id, or a list of them
format = ["int8", "int4", "int2"]
block_size = {blocks}
quantizer = ["rtn", "grid"]
protocol = "{protocol}"
"""
spec = RESULTS / "blocks.toml"
model = study.source.path.resolve() if Path(MODEL).exists() else MODEL
values = {"model": model, "blocks": BLOCKS, "protocol": PROTOCOL}
spec.write_text(SPEC.format(**values))
print(f"{spec}: {len(SPEC.splitlines())} lines")

# %% [markdown]
# `SweepBoard` shows it while it runs in processes of its own: the kernel stays free, and Stop works at once. Sort by a
# column's head, filter by text or state, select rows with the mouse or with Space and Shift. The same widget given a
# *folder* follows a sweep that runs elsewhere, on a cluster or in a terminal, and takes over one whose process was
# killed. Without a kernel the table below shows how it ended.

# %%
board = SweepBoard(Sweep.read(spec, output=RESULTS / "blocks"), processes=2)
shown = display(board, display_id=True)
board.start()
board.wait()
shown.update(board)

# %% [markdown]
# The widget is a view. `board.sweep` is the state, `board.data()` a DataFrame with a row a cell, `board.selected` the
# rows that are selected. Selecting in Python does what a click does, so this picks what a mouse would:

# %%
data = board.data()
board.selection = list(data.key[data.format.str.startswith("int2")])
rows = [
    [
        row.format,
        row.quantizer,
        f"{row.bits_per_weight:.3f}",
        f"{row.ppl:.3f}",
        f"{row.kl:.4f} ± {row.kl_error:.4f}",
    ]
    for row in board.selected.dropna(subset="kl").sort_values("kl").itertuples()
]
display(table(["format", "quantizer", "bits a weight", "perplexity", "KL, nats"], rows))
board.selection = []

# %% [markdown]
# ## 2. The table
#
# Bits a weight count everything that is stored, scales and zero-points included. *Paired change* is the change of the
# perplexity against the unconverted model on the same tokens, with the standard error of the paired differences
# (notebook 01, section 4): it is far smaller than that of the perplexity itself. The caption says what all rows
# share: protocol, hash of the text, hash of the tokenizer, tokens scored.

# %%
found = board.table()
display(found)

# %%
display(board.plot(RESULTS / "front.pdf"))

# %% [markdown]
# The line joins the rows that no other beats in both size and perplexity, as measured; it knows nothing of errors.
# Rows whose *paired change* is within two standard errors of zero cannot be told from the model as it is on so few
# tokens: of the embedded model all of INT8, and of INT4 all but round to nearest in blocks of 256. Which of those lie
# on the line means nothing. In two bits the losses are many times their errors, and at the same size round to nearest
# loses more than `grid`. KL resolves more than perplexity on the same tokens, because it compares whole distributions
# and not one token of each.
#
# The same rows for a paper, a spreadsheet or a script. CSV and JSON hold unrounded values and, in every row, the
# conditions; LaTeX needs `booktabs`; every string is escaped. On a terminal this is `workbench table
# DIR/blocks --format latex --plot front.pdf`.

# %%
print(found.format("latex"))
records = list(csv.DictReader(io.StringIO(found.format("csv"))))
print(f"CSV: {len(records)} rows of {len(records[0])} fields; of the last row:")
for name in ("format", "quantizer", "ppl", "change", "change_se", "kl", "device", "protocol", "text_sha256"):
    print(f"  {name:12s} {records[-1][name]}")

# %% [markdown]
# ## 3. Going on
#
# A result is a file whose name is a hash of everything that decides it: checkpoint, text, protocol, options, the
# project's code, versions of numpy and torch. So a file that is edited and run again keeps what is there and runs
# what is new. Below, one more quantizer, and another protocol; at first with a mistake: windows longer than the model's
# context. What a sweep asks for is checked before its first cell runs. What fails later, in a cell, fails alone, says
# why, and is tried again next time.

# %%
MORE = """
[[include]]
model = "{model}"
format = "int2/64/z5"         # zero-points with 5 fraction bits
quantizer = "hqq"
protocol = "{protocol}"

[[include]]
model = "{model}"
format = "int8"
protocol = "{other}"
"""
spec.write_text((SPEC + MORE).format(**values, other=f"disjoint-{2 * study.config.context_length}"))
try:
    Sweep.read(spec, output=RESULTS / "blocks")
except SweepError as error:
    print(error)

# %%
spec.write_text((SPEC + MORE).format(**values, other=study.protocol("disjoint-256")))
more = SweepBoard(Sweep.read(spec, output=RESULTS / "blocks"), processes=2)
shown = display(more, display_id=True)
more.start()
more.wait()
shown.update(more)

# %%
new = more.data().query("quantizer == 'hqq' or protocol != @PROTOCOL")
display(new.set_index("format")[["quantizer", "protocol", "status", "ppl"]])

# %% [markdown]
# `workbench sweep blocks.toml` is the same on a terminal, with `--scheduler` on a Dask cluster, and it may be killed at
# any time: `SweepBoard("runs/blocks")` shows what is left, and Resume goes on.
#
# ## 4. A published number, pass or fail
#
# The registry `published.toml` holds numbers that somebody has published, each with its source, protocol, model,
# options and a tolerance. These are all of them; "own figure" marks those of this project, which say whether this
# version still computes what an earlier one did, and not whether anybody else finds the same:

# %%
display(Markdown(listing(select(["*"]))))

# %% [markdown]
# The cells of the embedded model run anywhere, without a network. Each is converted and scored anew, under its own
# protocol, and passes if the ratio to the published figure is within the tolerance:

# %%
outcomes = reproduce(["embedded-*"], output=RESULTS / "reproduce", processes=2)
display(Markdown(markdown(outcomes)))

# %% [markdown]
# What others have published needs their weights and their text. A cell that lacks something says how to get it. An 8B
# model in 16 bits takes 16 GB on disk, and the references compute in f32, so 32 GB of memory; with `backend = "wgpu"`
# in a sweep it takes a GPU with as much as its format. The text of `wikitext2-gptq-2048`, the whole test split in
# windows of 2,048 tokens, is fetched by itself where the hub can be reached.

# %%
models = RESULTS / "models"  # a folder with Llama-2-7b-hf, Meta-Llama-3-8B; here it is empty
models.mkdir(exist_ok=True)
for name in (
    "llama-2-7b-f16",
    "llama-2-7b-rtn-int4-128",
    "llama-3-8b-gptq-int4-128-sym",
    "stories260K-int4-32",
):
    [published] = select([name])
    print(f"{name}: {published.ppl:g} within {published.tolerance:.1%}, {published.reference}")
    try:
        published.cell(models, texts=models)
        print("  is here\n")
    except NotHereError as error:
        print(f"  {str(error).partition(': ')[2]}\n")

# %% [markdown]
# On a terminal this is `workbench reproduce 'llama-2-7b-*' --models DIR --texts DIR`; its exit status is 0 if all
# hold, 1 if one fails, 2 if something is not here.
#
# Perplexities under different conditions are not comparable, and a table refuses them rather than showing them side
# by side. Sections 1 and 4 have the same model, text and protocol, and still:

# %%
try:
    workbench.table([RESULTS / "blocks", RESULTS / "reproduce"])
except SweepError as error:
    print(error)

# %% [markdown]
# `workbench.tables(...)`, or `workbench table --by-protocol`, makes one of each.
#
# ## 5. The kernels' table
#
# Speed has its own records. `workbench bench kernels` checks every variant of a kernel against its PyTorch reference,
# and only what passes gets a time: the median of interleaved rounds, with its spread. The ceilings, reading and
# arithmetic, are measured in the same run, so *share* is a share of what this machine did then, and as uncertain as
# both: look at the spread. On a software adapter (CPU in the table) times are those of a few processor cores, and the
# sweep that gives the ceiling is as noisy as they are (section 6 measures it twice): they show the method, not the
# kernels. For figures of a GPU leave `sizes` and `variants` out.
#
# Beside the INT4 kernel stands one of our own, the RMS of each row, as a beginner writes it: each number is read
# alone, and the sum is kept in memory.

# %%
HEAD = """
@group(0) @binding(0) var<storage, read> x: array<X_ELEMENT>;
@group(0) @binding(1) var<storage, read_write> y: array<y_type>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= ROWS) { return; }
"""
IN_MEMORY = """
  y[id.x] = 0;
  for (var k = 0u; k < COLUMNS; k++) { y[id.x] += x[id.x * COLUMNS + k] * x[id.x * COLUMNS + k]; }
  y[id.x] = sqrt(y[id.x] / f32(COLUMNS));
}"""


def row_rms_with(body: str, element: str = "x_type") -> None:
    """Define the kernel, or replace it."""

    @kernel(
        wgsl=HEAD.replace("X_ELEMENT", element) + body,
        grid=lambda c: (-(-c["rows"] // 64), 1, 1),
        reads={"x": Port(("rows", "columns"))},
        writes={"y": Port(("rows",))},
    )
    def row_rms(x):
        """The root of the mean square of each row."""
        return x.pow(2).mean(1).sqrt()


row_rms_with(IN_MEMORY)
request = Request(
    kernels=["linear[int4]", "row_rms"],
    shapes=[(1024, 1024)],
    sizes={"rows": 1024, "columns": 1024},
    variants=["gemv", "batch", "broadcast", "wgsl"],
    rounds=9,
)


def run(name: str):
    """Measure, and keep the record in a file of this name."""
    return kernels.run(request, output=RESULTS / f"{name}.json", console=Progress())[0]


first = run("first")
kernels.table(first)

# %% [markdown]
# ## 6. Two runs
#
# Was it faster yesterday? A comparison first says what was set up differently: adapter, driver, versions, commit,
# hashes of WGSL and references, tunables. Only then come figures, and only those beyond the noise. First the same
# thing twice: whatever stands under *changes* below is not due to us but to the machine, which other work may have
# held up for the whole of one run. No rule about samples of one run can see that; doing it twice can.
#
# *By chance* is how often samples of one and the same thing would lie apart like this if each came independently of the
# others: with nine in each run, 2 of the 48,620 ways to order them, 0.004 %, which is printed as 0.0 %. That is no
# certainty, because samples of one run share its conditions: they can all be slow together.

# %%
run("again")
display(
    differences.compare_records(*(differences.read(RESULTS / f"{name}.json") for name in ("first", "again")))
)

# %% [markdown]
# Now the kernel is repaired: the sum stays in a register, and each load takes four numbers. The comparison names the
# changed source first, and with it what has changed of our kernel: its time, and its error, since four short sums
# round less than a long one.

# %%
IN_A_REGISTER = """
  var sum = 0.0;
  for (var k = 0u; k < COLUMNS / 4; k++) {
    let v = x[id.x * (COLUMNS / 4) + k];
    sum += dot(v, v);
  }
  y[id.x] = sqrt(sum / f32(COLUMNS));
}"""
row_rms_with(IN_A_REGISTER, "vec4<x_type>")
run("repaired")
display(
    differences.compare_records(
        *(differences.read(RESULTS / f"{name}.json") for name in ("again", "repaired"))
    )
)

# %% [markdown]
# On a terminal: `workbench bench kernels --json before.json`, the change, `--json after.json`, and then `workbench
# bench compare before.json after.json`. Records of different adapters can be compared as well; the first lines say
# so.
#
# ## 7. Your own checkpoint
#
# Name a checkpoint from the hub, or a folder, in the TOML file; nothing else changes. `wikitext2-gptq-2048` without
# `max_windows` is the protocol of most papers, and a model of some billion parameters wants a GPU (`backend = "wgpu"`,
# one cell at a time) or a cluster (`scheduler=`). Quantizers that learn from a text take it as in the last line of
# the grid; `docs/sweeps.md` has every key.

# %%
# MINE = """
# [sweep]
# output = "runs/mine"
# backend = "wgpu"                              # or "torch": the references, slower, the same on every machine
# [texts.wiki]
# dataset = "wikitext2"
# [grid]
# model = "HuggingFaceTB/SmolLM-135M"           # hub id or folder
# format = ["int8", "int4/128", "int4/32"]
# quantizer = ["rtn", {quantizer = "gptq", calibration = {text = "calibration.txt"}}]
# protocol = "wikitext2-gptq-2048"
# """
# Path("mine.toml").write_text(MINE)
# mine = SweepBoard("mine.toml")
# mine.start()
# mine                                          # then mine.table(), mine.plot("mine.pdf")
