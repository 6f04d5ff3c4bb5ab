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
# # What do 8, 4 and 2 bits cost?
#
# A Llama model is mostly matrices. Storing each weight in 8, 4 or 2 bits instead of 16 makes the model two to eight
# times smaller, and every token correspondingly cheaper to compute where memory bandwidth is the limit, which is
# nearly everywhere. The price is accuracy. This notebook measures that price on one small model, from a single weight
# up to a whole story, with the packed bytes running through WGSL kernels that browsers compile as well:
#
# 1. what runs here, and what it will cost before anything is allocated
# 2. one matrix up close: levels, errors, blocks
# 3. converting to INT8, INT4 and INT2
# 4. perplexity with error bars, and how many tokens a claim needs
# 5. where inside the model the error is
# 6. what helps against it
# 7. what it does to a story
# 8. your own checkpoint
#
# What it comes to on a language model, SmolLM2-135M on all of WikiText-2's test split (302,956 tokens, blocks of 64 but
# for INT8, measured on an NVIDIA H200; paired change of the perplexity, 21.769 in f16):
#
# | | round to nearest | GPTQ | trained |
# |:--|--:|--:|--:|
# | INT8 | -0.09 ± 0.02 % | -0.01 ± 0.01 % | +0.03 ± 0.01 % |
# | INT4 | +31.8 ± 0.4 % | +14.0 ± 0.2 % | +7.7 ± 0.2 % |
# | INT2 | destroyed | 11.2 times ± 0.2 | 3.9 times ± 0.1 |
#
# The embedded model has 7.3 million parameters and writes children's stories. It is small enough that everything
# below takes less than three minutes on two CPU cores without a GPU. Its numbers are real, but they are *its*
# numbers, and what the text says of them is said of this model. To study another one, change the line `CHECKPOINT =
# ...`: windows, prompts and blocks follow from the model, and its results get a folder of their own.

# %%
import html
import json

import ipywidgets as widgets
import numpy as np
from IPython.display import Markdown, display

import workbench
from eval.named_texts import named_text
from eval.perplexity import perplexities
from eval.texts import encode
from workbench.assets import demo_model_path
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.model_bench.measure import Settings, bits_per_weight, measure, weight_files
from workbench.model_bench.plot import perplexity_vs_size
from workbench.model_bench.records import save
from workbench.models.tokenizer import load_tokenizer
from workbench.runtime.info import describe
from workbench.runtime.provenance import versions
from workbench.show.notebook import Bars, side_by_side, table, with_picture
from workbench.studies import plots
from workbench.studies.fitting import Study
from workbench.studies.tokens import Names
from workbench.studies.weight_error import weight_error

CHECKPOINT = demo_model_path()  # or a folder, or a hub id: the one line to change
TEXT = "evaluation"  # stories; or a UTF-8 file, or a data set such as "wikitext2"
FORMATS = ("int8", "int4", "int2")
WINDOWS = 7  # of 512 tokens; more of them narrow the error bars of section 4

study = Study(CHECKPOINT, "quantization_accuracy")
RESULTS = study.folder  # everything that this notebook writes
settings = study.settings(Settings("disjoint-512", windows=WINDOWS, repetitions=3))
BASE = study.dtype  # what the unquantized model is stored as
print(study)

# %% [markdown]
# ## 1. What runs here
#
# `describe` plans a model without reading its weights: the calls of one token, how they were lowered for this adapter,
# memory by kind, and every automatic choice with its reason. If the adapter below is a *CPU* (Mesa's llvmpipe), the
# accuracy figures are as good as on a GPU and the times are not.

# %%
info = describe(CHECKPOINT)
print(info)
print("\nversions:", ", ".join(f"{package} {version}" for package, version in versions().items()))

# %% [markdown]
# A *plan* is a straight line of kernel calls over named buffers. Each kernel is a pair, a WGSL source and a PyTorch
# function that computes the same, so the plan below can run on a device and through the references, and any name in
# it can be read from both. This is the first of the decoder layers:

# %%
calls = str(info.plan).splitlines()
print("\n".join(call for call in calls if "-> layers.0." in call))
print(f"... {len(calls)} calls in all")

# %% [markdown]
# ## 2. One matrix up close
#
# A *block* of consecutive weights of one row shares a scale $s$ and a zero-point $z$. With $b$ bits, and integers $q$
# from $0$ to $2^b - 1$ (INT8 is signed and shifted), *round to nearest* stores
#
# $$ s = \frac{\max w - \min w}{2^b - 1}, \qquad z = \mathrm{round}\left(-\frac{\min w}{s}\right), \qquad
#    q = \mathrm{clamp}\left(\mathrm{round}\frac{w}{s} + z\right), \qquad \hat w = s\,(q - z). $$
#
# The kernels never see $w$ again, only $\hat w$. How much is lost is best said in decibels,
#
# $$ \mathrm{SQNR} = 10 \log_{10} \frac{\sum w^2}{\sum (w - \hat w)^2}. $$
#
# If the error is uniform over a step it carries $s^2/12$ a weight, so each bit halves $s$ and is worth
# $20 \log_{10} 2 \approx 6.02$ dB. Below are the weights of one block (grey) and the values that each format can give
# them (coloured).

# %%
source = study.source
matrices = [name for name in source.names() if len(source.describe(name)[0]) == 2]
NAME = f"model.layers.{study.middle_layer}.mlp.down_proj.weight"
weights = source.tensor(NAME).dequantize()

nearest = [weight_error(weights, WeightFormat(dtype), "rtn", NAME) for dtype in FORMATS]
searched = [weight_error(weights, WeightFormat(dtype), "grid", NAME) for dtype in FORMATS]
display(plots.levels(nearest, row=5))

# %% [markdown]
# Round to nearest spends its range on the largest weight of the block, however lonely it is. A *grid search* tries
# smaller ranges, clips the outliers and refits scale and zero-point by least squares. It needs no data and costs
# nothing at run time; with 256 levels there is nothing to gain, with 4 there is a lot.

# %%
rows = []
for rtn, grid in zip(nearest, searched, strict=True):
    decibels = [rtn.predicted_db, rtn.sqnr_db, grid.sqnr_db]
    cells = [f"{value:.2f}" for value in decibels]
    rows.append([rtn.format, f"{rtn.bits_per_weight:.3f}", *cells, f"{grid.sqnr_db - rtn.sqnr_db:+.2f}"])
names = [
    "format",
    "bits a weight",
    "s²/12 predicts, dB",
    "round to nearest, dB",
    "grid search, dB",
    "gain, dB",
]
display(table(names, rows), plots.block_errors([*nearest, *searched]))

# %% [markdown]
# A single number for a matrix hides its blocks: the curves show how unequal they are. Now choose for yourself. Any
# matrix, any format, smaller blocks (more scales, more bits) or one scale a row or matrix. Without a running kernel
# this shows the picture of the first choice.

# %%
SIZES = study.blocks([32, 64, 128, 256])
BLOCKS = [*SIZES, "channel", "tensor"]
USUAL = max(size for size in SIZES if size <= 128)


def menu(label: str, options: list, value=None) -> widgets.Dropdown:
    labels = {"description_width": "initial"}
    return widgets.Dropdown(options=options, value=value or options[0], description=label, style=labels)


choice = {
    "matrix": menu("matrix", matrices, NAME),
    "dtype": menu("format", list(FORMATS), "int4"),
    "block": menu("block", BLOCKS, USUAL),
    "quantizer": menu("method", ["rtn", "grid"]),
}
for control in choice.values():
    control.layout.width = "max-content"
picture, figures = widgets.Image(format="png", layout={"object_fit": "scale-down"}), widgets.HTML()


def look(matrix: str, dtype: str, block: int | str, quantizer: str) -> plots.Picture:
    sizes = {"block_size": block} if isinstance(block, int) else {"granularity": block}
    found = weight_error(source.tensor(matrix).dequantize(), WeightFormat(dtype, **sizes), quantizer, matrix)
    drawn = plots.explained(found)
    picture.value = drawn.png()
    size = f"{found.bits_per_weight:.3f} bits a weight, {found.tensor.nbytes / 1024:.0f} KiB"
    said = f"{found.format}, {quantizer}: <b>{found.sqnr_db:.2f} dB</b> at {size}"
    figures.value = f"<p data-format='{found.format}' data-method='{quantizer}'>{said}</p>"
    return drawn


def changed(_) -> None:
    try:
        look(**{name: control.value for name, control in choice.items()})
    except Exception as error:  # a callback's error would otherwise go unseen
        figures.value = f"<p role='alert'>{type(error).__name__}: {html.escape(str(error))}</p>"


for control in choice.values():
    control.observe(changed, names="value")
menus = widgets.HBox(list(choice.values()), layout={"flex_flow": "row wrap"})
explorer = widgets.VBox([menus, figures, picture])
display(with_picture(explorer, look(NAME, "int4", USUAL, "rtn")), raw=True)

# %% [markdown]
# The same question as a table: what does a smaller block buy, and what does it cost? Halving the block adds 24 bits
# (an f16 scale and an int8 zero-point) for half as many weights.

# %%
rows = []
for size in BLOCKS:
    kind = {"block_size": size} if isinstance(size, int) else {"granularity": size}
    found = [weight_error(weights, WeightFormat(dtype, **kind)) for dtype in FORMATS]
    rows.append([size, *(f"{each.bits_per_weight:.3f} b, {each.sqnr_db:.2f} dB" for each in found)])
display(table(["block", *FORMATS], rows))

# %% [markdown]
# ## 3. Converting the model
#
# The converter streams the checkpoint tensor by tensor and writes shards (`model.wgpu`) with a `manifest.json`.
# Output folders are complete or absent. Vectors (norms) stay f32: they are few. The embedding, which is also the LM
# head here, is quantized like everything else; a model that has a head of its own has it quantized too.

# %%
models = {BASE: source.path}
summaries = {}
for dtype in FORMATS:
    models[dtype] = RESULTS / "models" / dtype
    options = ConvertOptions(WeightFormat(dtype), quantizer="rtn", overwrite=True)
    summaries[dtype] = convert(source.path, models[dtype], options, progress=True)
Bars.clear()  # the progress bars have done their work

original, _ = weight_files(source.path)
rows = [[BASE, f"{original / 1e6:.2f}", "100.0%", f"{bits_per_weight(source):.3f}", len(matrices), "–"]]
for made in summaries.values():
    counts = {kind: count for kind, count in made.formats.items() if kind != "f32"}
    sizes = [f"{made.nbytes / 1e6:.2f}", f"{made.nbytes / original:.1%}", f"{made.bits_per_weight:.3f}"]
    kinds, numbers = ", ".join(counts), " + ".join(map(str, counts.values()))
    rows.append([kinds, *sizes, numbers, f"{made.seconds:.1f}"])
display(table(["format", "weights, MB", f"of {BASE}", "bits a weight", "matrices", "seconds"], rows))

# %% [markdown]
# The manifest says of every tensor how it is stored and why, where its planes lie and what they must hash to; of the
# whole, from which files, with which options and versions it was made, and the plan that runs it. Here is the entry
# of the matrix above:

# %%
stored = StoredModel.open(models["int4"])
manifest = stored.manifest
entry = manifest["tensors"][NAME]
print("manifest:", ", ".join(manifest))
print("precision:", json.dumps(manifest["precision"][NAME]))
print("format:", json.dumps(entry["format"]))
for part in entry["parts"]:
    for plane, place in part["planes"].items():
        where = f"{place['length']:6d} bytes at {place['offset']:7d} of {place['shard']}"
        print(f"rows {part['rows']} {plane:6s} {where}, {place['checksum'][:19]}")

# %% [markdown]
# ## 4. Perplexity, with error bars
#
# $\mathrm{PPL} = \exp\left(\frac1n \sum_i \ell_i\right)$ with $\ell_i = -\ln p(t_i \mid t_{<i})$. On a few thousand
# tokens its standard error is several percent, because some tokens are easy and some are hard, far more than
# quantization changes anything. But they are equally hard for both models: the *paired* difference
# $d_i = \ell_i^\text{quantized} - \ell_i^\text{float}$ cancels this, and
#
# $$ \ln\frac{\mathrm{PPL}_q}{\mathrm{PPL}_\text{float}} = \bar d, \qquad
#    \mathrm{SE} = \frac{\mathrm{sd}(d)}{\sqrt n}. $$
#
# Beside it stand the Kullback-Leibler divergence of the whole distribution from the baseline's, which sees what the
# target's probability alone does not, and how often both agree on the most likely token. All of it goes through the
# WGSL kernels on the packed bytes. The same bytes go through the PyTorch references too; the difference is the
# *kernel loss*, and that of the unquantized row is the noise floor.

# %%
tokenizer = load_tokenizer(source.tokenizer_path)
tokens = encode(tokenizer, named_text(TEXT), settings.scheme)

measurement = measure(models, BASE, tokens, settings, progress=Bars())
Bars.clear()
report = save(measurement, RESULTS)  # table.md, results.json with provenance, the figure below
display(Markdown(report))

# %%
display(perplexity_vs_size(measurement))

# %% [markdown]
# **How to read it.** In the left panel the grey band is the plain error of the unquantized perplexity. INT8 and INT4
# of the embedded model disappear in it, and an unpaired comparison could say nothing at all about them. In the right
# panel the same tokens, paired. A format whose error bar crosses zero has not been told apart from the unquantized
# model *by perplexity* on this many tokens. That is not the same as being equal: its KL divergence, an average of
# numbers that cannot be negative, is already known to a few percent.
#
# The error falls as $1/\sqrt n$, so a claim can be priced in advance: $n = (\mathrm{sd}(d) / \mathrm{SE})^2$. The
# perplexity itself, without a pair, would need $n = (\mathrm{sd}(\ell)/\mathrm{SE})^2$.

# %%
n = measurement.row(BASE).result.tokens_scored


def needed(se_now: float, se: float) -> str:
    return f"{n * (se_now / se) ** 2:,.0f}"


alone = measurement.row(BASE).result
relative_se = alone.ppl_se / alone.ppl
rows = [[f"{BASE}, unpaired", "–", f"{relative_se:.3%}", needed(relative_se, 0.001), "–"]]
for dtype in FORMATS:
    pair = measurement.row(dtype).result.baseline
    mean, se = pair.ln_ratio, pair.ln_ratio_se
    rows.append([dtype, f"{mean:+.3%}", f"{se:.3%}", needed(se, 0.001), needed(3 * se, abs(mean))])
display(table(["", "ln ratio", f"its SE at n = {n:,}", "n for SE = 0.1 %", "n to see it at 3 SE"], rows))

# %% [markdown]
# These errors take tokens as independent. Tokens of one story are not quite; `results.json` also has errors clustered
# by window, which with so few windows are themselves uncertain.
#
# ## 5. Where the error is
#
# `forward(ids, keep=[...])` reads any buffer of the plan. Below, over 256 tokens, the RMS of an element of the residual
# stream, and the RMS of its error:
#
# - each quantized model against the unquantized one, both through WGSL: what the *format* does;
# - the unquantized model through WGSL against itself through the references: what the *kernels* do.

# %%
ids = tokens.ids[: study.tokens(256)]
layers = range(info.config.layers)
stream = ["embedded", *(f"layers.{i}.out" for i in layers)]
inside = {
    "queries": "attn.q",
    "values": "attn.v",
    "attention's output": "attn.out",
    "MLP's output": "mlp.out",
}
keep = [*stream, *(f"layers.{i}.{part}" for part in inside.values() for i in layers)]

kept = {name: workbench.load(path).forward(ids, keep=keep).kept for name, path in models.items()}
references = workbench.load(source.path, backend="torch").forward(ids, keep=keep).kept


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


growth = {"the stream itself": [rms(kept[BASE][name]) for name in stream]}
for dtype in reversed(FORMATS):
    growth[f"{dtype} against {BASE}"] = [rms(kept[dtype][name] - kept[BASE][name]) for name in stream]
growth[f"{BASE}, WGSL against PyTorch"] = [rms(kept[BASE][name] - references[name]) for name in stream]

parts = {}
for label, part in inside.items():
    names = [f"layers.{i}.{part}" for i in layers]
    parts[label] = [rms(kept["int4"][name] - kept[BASE][name]) / rms(kept[BASE][name]) for name in names]

growth_figure = plots.depth(growth, ["emb.", *map(str, layers)], parts, f"int4 against {BASE}")
growth_figure.save(RESULTS / "error_by_layer.png")
display(growth_figure)

# %%
whole = growth["the stream itself"]
of_weights = {error.format.dtype: 10 ** (-error.sqnr_db / 20) for error in nearest}
rows = []
for label, values in growth.items():
    share = [value / size for value, size in zip(values, whole, strict=True)]
    weight_share = of_weights.get(label.split()[0])
    cells = [f"{share[at]:.2g}" for at in (0, 1, len(share) // 2, -1)]
    rows.append([label, *cells, f"{weight_share:.2g}" if weight_share else "–"])
names = [
    "relative error",
    "embedding",
    "layer 0",
    f"layer {len(whole) // 2 - 1}",
    "last layer",
    "of section 2's weights",
]
display(table(names, rows[1:]))

# %% [markdown]
# The residual stream is a sum. Every layer adds an error of its own, passes on those before it and computes from a
# disturbed input, so the error grows from layer to layer, and the stream grows with it. In the embedded model their
# ratio stays put, close to the relative error of the weights themselves, $10^{-\mathrm{SQNR}/20}$: a rounded matrix
# makes a relative error of about that size in whatever it writes, and what is written later outweighs what was
# written before. The kernels' own rounding lies several orders of magnitude lower at every depth: what this notebook
# measures is quantization, not arithmetic.
#
# ## 6. What helps
#
# Two suspects for INT2: rounding that spends its range on outliers (section 2), and the embedding, which here is also
# the LM head, so that its error reaches the logits with nothing behind it to average over. The kernels add nothing
# that could be seen, so the references, which are quicker on a CPU, may answer. Neither repair costs anything at run
# time but the bits in the first column.

# %%
int2, grid = WeightFormat("int2"), {"quantizer": "grid", "overwrite": True}
repairs = {
    "int2 grid": ConvertOptions(int2, **grid),
    "int2 grid, blocks of 64": ConvertOptions(WeightFormat("int2", block_size=64), **grid),
    "int2 grid, int8 embedding": ConvertOptions(int2, embedding=WeightFormat("int8"), **grid),
}
bits = {name: measurement.row(name).bits_per_weight for name in (BASE, "int4", "int2")}
repaired = {name: workbench.load(models[name], backend="torch") for name in bits}
for name, options in repairs.items():
    folder = RESULTS / "models" / name.replace(",", "").replace(" ", "-")
    bits[name] = convert(source.path, folder, options).bits_per_weight
    repaired[name] = workbench.load(folder, backend="torch")

rows = []
for name, result in perplexities(
    repaired, tokens, settings.scheme, baseline=BASE, max_windows=WINDOWS
).items():
    change = kl = "–"
    if pair := result.baseline:
        change = (
            f"{100 * np.expm1(pair.ln_ratio):+.2f} ± {100 * np.exp(pair.ln_ratio) * pair.ln_ratio_se:.2f}"
        )
        kl = f"{pair.kl_mean:.4f} ± {pair.kl_se:.4f}"
    rows.append([name, f"{bits[name]:.3f}", f"{result.ppl:.3f}", change, kl])
display(table(["", "bits a weight", "perplexity", "change, %", "mean KL, nats"], rows))

# %% [markdown]
# In the embedded model the search alone takes away most of the loss, and bits for the embedding buy more than bits
# for smaller blocks. The two block sizes cannot be told apart by perplexity, but they can by KL: the target's
# probability is one number of a token, the divergence looks at the whole vocabulary. `ConvertOptions.overrides` takes
# a format for any pattern of tensor names, so this table is the beginning of a search, not its end.
#
# ## 7. A story
#
# The same prompt, the same seed, the same sampler; only the bits differ. The sampler draws one random number a token,
# so both stories stay together until a draw falls between the two distributions. Per token this happens with a
# probability of at least their total variation distance, $\frac12 \sum_v |p_v - q_v|$: small, but a story is long.

# %%
PROMPT = "Once upon a time"
stories = {}
for dtype in (BASE, "int4"):
    print(f"[{dtype}] {PROMPT}", end="")
    stories[dtype] = PROMPT
    for piece in workbench.load(models[dtype]).generate(
        PROMPT, max_new_tokens=study.tokens(140, 24), temperature=0.8, top_p=0.95, seed=6
    ):
        print(piece, end="", flush=True)
        stories[dtype] += piece
    print("\n")

# %%
display(side_by_side(stories))

# %% [markdown]
# What did the two models think at the token where they part? Both read the shared beginning, and these are their most
# likely continuations:

# %%
written = {dtype: tokenizer(text)["input_ids"] for dtype, text in stories.items()}
pairs = zip(*written.values(), strict=False)
parting = next((i for i, (a, b) in enumerate(pairs) if a != b), min(map(len, written.values())) - 1)

names, rows = Names(tokenizer), []
for dtype in written:
    logits = workbench.load(models[dtype]).forward(written[BASE][:parting]).logits[-1].astype(np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    best = [f"`{names(int(i))!r}` {p[i]:.1%}" for i in np.argsort(p)[::-1][:5]]
    wrote = written[dtype][parting]
    rows.append([dtype, f"`{names(wrote)!r}` {p[wrote]:.1%}", *best])
before = tokenizer.decode(written[BASE][:parting], skip_special_tokens=True)
print(f"they part at token {parting}, after {'...' + before[-60:]!r}")
display(table(["", "it wrote", "1st", "2nd", "3rd", "4th", "5th"], rows))

# %% [markdown]
# ## 8. Your own checkpoint
#
# Any Llama checkpoint (Llama 2, 3, 3.1, 3.2 and models that share their architecture) goes the same way: a folder
# with `config.json` and safetensors, or a hub id. Name it in the line `CHECKPOINT = ...` of the first cell and run
# everything again: it gets a folder of its own. A published perplexity needs its published protocol and text, which
# this cell has: for WikiText-2 that is `wikitext2-gptq-2048`, over the whole test split.

# %%
# from eval.perplexity import perplexity
# from eval.texts import load_dataset_text
#
# base, mine = workbench.load(CHECKPOINT), workbench.load(models["int4"])
# text = load_dataset_text("wikitext2")
# result = perplexity(mine, text, "wikitext2-gptq-2048", baseline=base, max_windows=4, progress=True)
# result.save(RESULTS / "int4.npz")                            # per-token scores, to be paired later with others
# display(result)

# %% [markdown]
# Everything that this run wrote:

# %%
for path in sorted(RESULTS.rglob("*")):
    if path.is_file() and "tokenizer" not in path.parts:
        print(f"{path.stat().st_size:>10,}  {path.as_posix()}")

# %% [markdown]
# `results.json` carries, beside each number, what is needed to repeat it: adapter and driver, versions, commit, hashes
# of models, text and kernels, protocol and token counts. On the command line the same is `workbench quantize`,
# `workbench perplexity` and, for the whole table, `make demo`.
