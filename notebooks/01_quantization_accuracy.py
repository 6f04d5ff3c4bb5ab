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
import base64
import html
import json

import ipywidgets as widgets
import numpy as np
import pandas
from IPython.display import clear_output, display

import workbench

CHECKPOINT = workbench.demo_model_path()  # or a folder, or a hub id: the one line to change
TEXT = "evaluation"  # stories; or a UTF-8 file, or a data set such as "wikitext2"
FORMATS = ("int8", "int4", "int2")
WINDOWS = 7  # of 512 tokens; more of them narrow the error bars of section 4

study = workbench.Study(CHECKPOINT, "quantization_accuracy", quantizes=True)
RESULTS = study.folder  # everything that this notebook writes
PROTOCOL = study.protocol("disjoint-512")
BASE = study.dtype  # what the unquantized model is stored as
print(study)

# %% [markdown]
# ## 1. What runs here
#
# `workbench.describe` plans a model without reading its weights: the calls of one token, how they were lowered for this
# adapter, memory by kind, and every automatic choice with its reason. If the adapter below is a *CPU* (Mesa's
# llvmpipe), the accuracy figures are as good as on a GPU and the times are not.

# %%
info = workbench.describe(CHECKPOINT)
print(info)

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

errors = workbench.weight_errors(weights, FORMATS, ["rtn", "grid"], name=NAME)
display(errors.plot("levels"))

# %% [markdown]
# Round to nearest spends its range on the largest weight of the block, however lonely it is. A *grid search* tries
# smaller ranges, clips the outliers and refits scale and zero-point by least squares. It needs no data and costs
# nothing at run time; with 256 levels there is nothing to gain, with 4 there is a lot.

# %%
display(errors, errors.plot("blocks"))

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
picture, figures = widgets.HTML(), widgets.HTML()


def look(matrix: str, dtype: str, block: int | str, quantizer: str) -> bytes:
    values = source.tensor(matrix).dequantize()
    looked = workbench.weight_errors(values, f"{dtype}/{block}", quantizer, name=matrix)
    drawn = looked.plot("matrix")
    picture.value = drawn.html(f"{matrix} in {dtype}: a block, its errors and all blocks")
    [one] = looked.errors
    size = f"{one.bits_per_weight:.3f} bits a weight, {one.tensor.nbytes / 1024:.0f} KiB"
    said = f"{one.format}, {quantizer}: <b>{one.sqnr_db:.2f} dB</b> at {size}"
    figures.value = f"<p data-format='{one.format}' data-method='{quantizer}'>{said}</p>"
    return drawn.png()


def changed(_) -> None:
    try:
        look(**{name: control.value for name, control in choice.items()})
    except Exception as error:  # a callback's error would otherwise go unseen
        figures.value = f"<p role='alert'>{type(error).__name__}: {html.escape(str(error))}</p>"


for control in choice.values():
    control.observe(changed, names="value")
menus = widgets.HBox(list(choice.values()), layout={"flex_flow": "row wrap"})
explorer = widgets.VBox([menus, figures, picture])
still = base64.b64encode(look(NAME, "int4", USUAL, "rtn")).decode()
display({**explorer._repr_mimebundle_(), "image/png": still}, raw=True)

# %% [markdown]
# The same question as a table: what does a smaller block buy, and what does it cost? Halving the block adds 24 bits
# (an f16 scale and an int8 zero-point) for half as many weights.

# %%
smaller = [f"{dtype}/{block}" for block in BLOCKS for dtype in FORMATS]
found = workbench.weight_errors(weights, smaller, name=NAME).data()
found["block"], found["dtype"] = zip(*([b, d] for b in BLOCKS for d in FORMATS), strict=True)
shown = found["bits_per_weight"].map("{:.3f} b, ".format) + found["sqnr_db"].map("{:.2f} dB".format)
display(
    found.assign(shown=shown).pivot(index="block", columns="dtype", values="shown").loc[BLOCKS, [*FORMATS]]
)

# %% [markdown]
# ## 3. Converting the model
#
# The converter streams the checkpoint tensor by tensor and writes shards (`model.wgpu`) with a `manifest.json`.
# Output folders are complete or absent. Vectors (norms) stay f32: they are few. The embedding, which is also the LM
# head here, is quantized like everything else; a model that has a head of its own has it quantized too.

# %%
models = {BASE: workbench.load(CHECKPOINT)}
for dtype in FORMATS:
    models[dtype] = workbench.quantize(CHECKPOINT, dtype, output=RESULTS / "models" / dtype, overwrite=True)
clear_output(wait=True)  # the progress bars have done their work
display(models["int4"])

# %% [markdown]
# The manifest says of every tensor how it is stored and why, where its planes lie and what they must hash to; of the
# whole, from which files, with which options and versions it was made, and the plan that runs it. Here is the entry
# of the matrix above:

# %%
manifest = models["int4"].source.manifest
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
# WGSL kernels on the packed bytes.

# %%
measured = workbench.perplexity(models, TEXT, PROTOCOL, baseline=BASE, max_windows=WINDOWS)
clear_output(wait=True)
measured.save(RESULTS / "results.json")  # with provenance; `workbench table` reads it
display(measured)

# %%
display(measured.plot(RESULTS / "perplexity.png"))

# %% [markdown]
# **How to read it.** The error behind a perplexity is its own: INT8 and INT4 of the embedded model disappear in that of
# the unquantized one, and an unpaired comparison could say nothing at all about them. The paired change, in the right
# panel, is of the same tokens. A format whose error bar crosses zero has not been told apart from the unquantized model
# *by perplexity* on this many tokens. That is not the same as being equal: its KL divergence, an average of numbers
# that cannot be negative, is already known to a few percent. The left panel says how unequal the tokens are: at most of
# them the distributions hardly differ, and the highest percentiles are where a text would turn out otherwise.
#
# The error falls as $1/\sqrt n$, so a claim can be priced in advance: $n = (\mathrm{sd}(d) / \mathrm{SE})^2$. The
# perplexity itself, without a pair, would need $n = (\mathrm{sd}(\ell)/\mathrm{SE})^2$.

# %%
n = measured[BASE].tokens_scored


def needed(se_now: float, se: float) -> str:
    return f"{n * (se_now / se) ** 2:,.0f}"


relative_se = measured[BASE].ppl_error / measured[BASE].ppl
names = ["ln ratio", f"its SE at n = {n:,}", "n for SE = 0.1 %", "n to see it at 3 SE"]
prices = {f"{BASE}, unpaired": ["–", f"{relative_se:.3%}", needed(relative_se, 0.001), "–"]}
for dtype in FORMATS:
    pair = measured[dtype].baseline
    mean, se = pair.ln_ratio, pair.ln_ratio_error
    prices[dtype] = [f"{mean:+.3%}", f"{se:.3%}", needed(se, 0.001), needed(3 * se, abs(mean))]
display(pandas.DataFrame.from_dict(prices, orient="index", columns=names))

# %% [markdown]
# Tokens of one story are not quite independent, so every figure has two errors: with tokens taken as independent, and
# clustered by window, which with few windows is itself uncertain. What is shown is the larger; `results.json` has both.
#
# The same bytes go through the PyTorch references too. The difference is the *kernel loss*, and that of the unquantized
# row is the noise floor. (Without an adapter both are the references, and there is none.)

# %%
references = {name: workbench.load(model.source, backend="torch") for name, model in models.items()}
options = {"baseline": BASE, "max_windows": WINDOWS}
checked = workbench.perplexity(references, TEXT, PROTOCOL, **options)
clear_output(wait=True)

names, losses = ["perplexity, WGSL", "references", "mean d, nats", "its SE", "largest |d|"], {}
for name in models:
    d = measured[name].token_nll - checked[name].token_nll
    figures_of = [d.mean(), d.std(ddof=1) / np.sqrt(n), np.abs(d).max()]
    losses[name] = [measured[name].ppl, checked[name].ppl, *(f"{value:.1e}" for value in figures_of)]
display(pandas.DataFrame.from_dict(losses, orient="index", columns=names).round(4))

# %% [markdown]
# ## 5. Where the error is
#
# `Model.forward(ids, keep=[...])` reads any buffer of the plan. Below, over 256 tokens, the RMS of an element of the
# residual stream, and the RMS of its error:
#
# - each quantized model against the unquantized one, both through WGSL: what the *format* does;
# - the unquantized model through WGSL against itself through the references: what the *kernels* do.
#
# The table has the same relative to the stream.

# %%
ids = measured[BASE].targets[: study.tokens(256)]
growth = workbench.depth_errors(models, ids, baseline=BASE)
growth_figure = growth.plot("int4")
growth_figure.save(RESULTS / "error_by_layer.png")
display(growth_figure, growth)

# %% [markdown]
# The residual stream is a sum. Every layer adds an error of its own, passes on those before it and computes from a
# disturbed input, so the error grows from layer to layer, and the stream grows with it. In the embedded model their
# ratio stays put, close to the relative error of the weights themselves, $10^{-\mathrm{SQNR}/20}$ (section 2 has the
# SQNR of one matrix): a rounded matrix makes a relative error of about that size in whatever it writes, and what is
# written later outweighs what was written before. The kernels' own rounding lies several orders of magnitude lower at
# every depth: what this notebook measures is quantization, not arithmetic.
#
# ## 6. What helps
#
# Two suspects for INT2: rounding that spends its range on outliers (section 2), and the embedding, which here is also
# the LM head, so that its error reaches the logits with nothing behind it to average over. The kernels add nothing
# that could be seen, so the references, which are quicker on a CPU, may answer. Neither repair costs anything at run
# time but the bits in the second column.

# %%
repairs = {
    "int2 grid": ("int2", {}),
    "int2 grid, blocks of 64": ("int2/64", {}),
    "int2 grid, int8 embedding": ("int2", {study.config.embedding: "int8"}),
}
repaired = {name: references[name] for name in (BASE, "int4", "int2")}
for name, (format, overrides) in repairs.items():
    repaired[name] = workbench.quantize(
        CHECKPOINT, format, quantizer="grid", overrides=overrides, execution={"backend": "torch"}
    )
found = workbench.perplexity(repaired, TEXT, PROTOCOL, **options)
clear_output(wait=True)
display(found)

# %% [markdown]
# In the embedded model the search alone takes away most of the loss, and bits for the embedding buy more than bits
# for smaller blocks. The two block sizes cannot be told apart by perplexity, but they can by KL: the target's
# probability is one number of a token, the divergence looks at the whole vocabulary. `overrides` takes a format for any
# pattern of tensor names, so this table is the beginning of a search (`workbench.allocate`), not its end.
#
# ## 7. A story
#
# The same prompt, the same seed, the same sampler; only the bits differ. The sampler draws one random number a token,
# so both stories stay together until a draw falls between the two distributions. Per token this happens with a
# probability of at least their total variation distance, $\frac12 \sum_v |p_v - q_v|$: small, but a story is long.

# %%
PROMPT = "Once upon a time"
written = workbench.continue_prompt(
    {name: models[name] for name in (BASE, "int4")},
    PROMPT,
    max_new_tokens=study.tokens(140, 24),
    sampling={"temperature": 0.8, "top_p": 0.95, "seed": 6},
)
display(written)

# %% [markdown]
# What did the two models think at the token where they part? Both read the shared beginning, and these are their most
# likely continuations:

# %%
texts = {each.label: each.tokens for each in written.continuations}
parting = min(map(len, texts.values())) - 1 if written.parted is None else written.parted

thoughts = {}
for name, tokens in texts.items():
    here = tokens[parting]
    best = [f"{each.text!r} {each.probability:.1%}" for each in here.alternatives]
    thoughts[name] = [f"{here.text!r} {here.probability:.1%}", *best[:5]]
before = "".join(token.text for token in texts[BASE][:parting])
print(f"they part at token {parting}, after {'...' + before[-60:]!r}")
display(pandas.DataFrame.from_dict(thoughts, orient="index").rename(columns={0: "it wrote"}))

# %% [markdown]
# ## 8. Your own checkpoint
#
# Any Llama checkpoint (Llama 2, 3, 3.1, 3.2 and models that share their architecture) goes the same way: a folder
# with `config.json` and safetensors, or a hub id. Name it in the line `CHECKPOINT = ...` of the first cell and run
# everything again: it gets a folder of its own. A published perplexity needs its published protocol and text, which
# this cell has: for WikiText-2 that is `wikitext2-gptq-2048`, over the whole test split.

# %%
# pair = {"base": models[BASE], "int4": models["int4"]}
# result = workbench.perplexity(pair, "wikitext2", "wikitext2-gptq-2048", baseline="base", max_windows=4)
# result["int4"].save(RESULTS / "int4.npz")                    # per-token scores, to be paired later with others
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
