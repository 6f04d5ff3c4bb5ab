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
# # What fewer bits do to generated text
#
# Perplexity says how much a format costs on average. This notebook looks at the text itself, token by token:
#
# 1. two formats side by side, live
# 2. where they part, and why there
# 3. what temperature and filters leave of a distribution
# 4. greedy, sampled, and the seed
# 5. hooks: reading the residual stream after every layer, and what each layer would have said
# 6. your own checkpoint
#
# Everything runs through the WGSL kernels on the embedded model (7.3 million parameters, children's stories), on a GPU
# or on a CPU with a software adapter.

# %%
from pathlib import Path

import numpy as np
from IPython.display import display

import workbench
from eval.statistics import log_softmax
from workbench.assets import demo_model_path
from workbench.bench.continuation import continue_prompt
from workbench.bench.notebook import Bars, table
from workbench.bench.plots import Picture, colour_of
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.spec import WeightFormat
from workbench.runtime.sampling import SamplingOptions, filter_logits, softmax
from workbench.widgets import Generator

CHECKPOINT = demo_model_path()
RESULTS = Path("runs/generation")  # everything that this notebook writes
PROMPT = "Once upon a time, there was a little dog named"

paths = {"f16": CHECKPOINT}
for dtype in ("int4", "int2"):
    paths[dtype] = RESULTS / "models" / dtype
    convert(CHECKPOINT, paths[dtype], ConvertOptions(WeightFormat(dtype), quantizer="grid", overwrite=True))
Bars.clear()
models = {name: workbench.load(path) for name, path in paths.items()}
f16, tokenizer = models["f16"], models["f16"].tokenizer
print("on", f16.device_name)

# %% [markdown]
# ## 1. Side by side
#
# Two models continue one prompt with the same sampler and the same seed. Then each reads the other's text, so that
# every token has $\mathrm{KL}(\text{f16} \,\|\, \text{INT4})$ at its place. Colour is KL, underlined is where the two
# differ in the most likely token, and the bar stands where the texts part. Point at a token (or walk with the arrow
# keys) to see what else was likely; Stop works while other cells run. Without a kernel the table below shows the
# finished run.

# %%
pair = Generator(
    {"f16": f16, "int4": models["int4"]}, prompt=PROMPT, temperature=0.7, seed=4, max_new_tokens=100
)
pair.start()
pair.wait()
display(pair)

# %% [markdown]
# The widget is a view; the result is an object. `pair.run` has the continuations, `pair.selected` the token that you
# clicked, and this is what they look like as data:

# %%
run = pair.run
print("\n".join(run.lines()))
where = "nowhere" if run.parted is None else f"at token {run.parted}"
print(f"they part {where}")
data = run.continuations[0].data()
rows = [
    [at, f"`{row.text!r}`", f"{row.probability:.1%}", f"{row.kl:.4f}", "yes" if row.flip else ""]
    for at, row in data.nlargest(8, "kl").iterrows()
]
display(table(["token", "text", "p(f16)", "KL, nats", "most likely differs"], rows))

# %% [markdown]
# ## 2. Where they part
#
# A sampler draws one random number $u$ a token and takes the token whose interval of the cumulative distribution holds
# it. Two models with the same $u$ agree unless it falls where their cumulative distributions differ. So they stay
# together longest where both are sure, and KL says where they are not: uncertain places are where formats show.
# Surprise ($-\ln p$) and KL of every token of the f16 text, once for INT4 and once for INT2:

# %%
sampling = SamplingOptions(temperature=0.7, seed=4)
runs = {
    name: continue_prompt({"f16": f16, name: models[name]}, PROMPT, max_new_tokens=100, sampling=sampling)
    for name in ("int4", "int2")
}
picture = Picture(8.6, 3.0, columns=2)
left, right = picture.axes
for name, each in runs.items():
    tokens = each.continuations[0].tokens
    kl = np.array([token.kl for token in tokens])
    surprise = -np.log([token.probability for token in tokens])
    label = f"{name}: mean {kl.mean():.4f} nats"
    left.semilogy(np.maximum(kl, 1e-7), "o", ms=3, color=colour_of(name), label=label)
    right.plot(surprise, np.maximum(kl, 1e-7), "o", ms=3, color=colour_of(name))
left.set(xlabel="token of the f16 text", ylabel="KL(f16 || format), nats")
right.set(xlabel="surprise of f16, −ln p, nats", yscale="log")
left.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
display(picture)

# %%
rows = []
for name, each in runs.items():
    first, second = each.continuations
    parted = "–" if each.parted is None else each.parted
    flips = f"{first.flips} of {len(first.tokens)}"
    rows.append([name, parted, f"{first.mean_kl:.4f}", flips, second.text[:60].replace("\n", " ") + " …"])
display(table(["", "parts at token", "mean KL on f16's text", "flips", "its own text"], rows))

# %% [markdown]
# ## 3. What a sampler leaves
#
# Logits become probabilities by a softmax over the temperature; then filters remove tokens, each from what the one
# before left: top-k keeps the $k$ best, top-p the fewest whose probabilities reach $p$, min-p those with at least that
# share of the best one's probability. Here the next token after the prompt, under some settings:

# %%
ids = f16.encode_prompt(PROMPT)
logits = f16.forward(ids).logits[-1]
settings = {
    "as it is": SamplingOptions(temperature=1.0),
    "temperature 0.7": SamplingOptions(temperature=0.7),
    "temperature 1.5": SamplingOptions(temperature=1.5),
    "top-k 5": SamplingOptions(temperature=1.0, top_k=5),
    "top-p 0.9": SamplingOptions(temperature=1.0, top_p=0.9),
    "min-p 0.1": SamplingOptions(temperature=1.0, min_p=0.1),
}
rows = []
for name, options in settings.items():
    p = softmax(filter_logits(logits, options))
    best = [f"`{tokenizer.decode([i])}` {p[i]:.1%}" if p[i] else "–" for i in np.argsort(-p)[:4]]
    entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
    rows.append([name, f"{np.count_nonzero(p):,}", f"{entropy:.2f}", *best])
display(table(["", "tokens left", "entropy, nats", "1st", "2nd", "3rd", "4th"], rows))

# %% [markdown]
# ## 4. Greedy, sampled, and the seed
#
# Temperature 0 is greedy: always the most likely token, no randomness. On small models it soon repeats itself. The
# same seed gives the same text, here and tomorrow; that is what makes a comparison of formats one of formats.

# %%
rows = []
for name, options in {
    "greedy": SamplingOptions(),
    "0.8, seed 1": SamplingOptions(temperature=0.8, seed=1),
    "0.8, seed 1 again": SamplingOptions(temperature=0.8, seed=1),
    "0.8, seed 2": SamplingOptions(temperature=0.8, seed=2),
    "0.8, min-p 0.1, seed 2": SamplingOptions(temperature=0.8, min_p=0.1, seed=2),
}.items():
    [found] = continue_prompt(f16, PROMPT, max_new_tokens=40, sampling=options).continuations
    p = np.mean(np.log([token.probability for token in found.tokens]))
    rows.append([name, f"{p:.2f}", f"{found.tokens_per_second:.0f}", found.text.replace("\n", " ")])
display(table(["sampler", "mean ln p", "tokens/s", "text"], rows))

# %% [markdown]
# ## 5. Hooks: what every layer would have said
#
# `forward(ids, keep=[...])` hands out any named buffer of the plan. `model.plan()` lists the names. Kept buffers are
# neither fused away nor reused, so what is read is what the kernels computed.
#
# The residual stream after layer $i$ has the shape of the final one. Passing it through the last norm and the LM head
# gives the token that the model would choose if it ended there (nostalgebraist 2020, "interpreting GPT: the logit
# lens"). At which depth does the answer appear, and do fewer bits change that?

# %%
layers = range(f16.config.layers)
names = ["embedded", *(f"layers.{i}.out" for i in layers)]
norm = f16.source.tensor("model.norm.weight").dequantize()
head = f16.source.tensor("model.embed_tokens.weight").dequantize()  # tied: it is the LM head too


def lens(model, ids):
    """Log probabilities [depth, vocab] after the last of `ids`, as if the model ended at each depth."""
    kept = model.forward(ids, keep=names).kept
    stream = np.stack([kept[name][-1] for name in names]).astype(np.float64)
    normed = stream / np.sqrt(np.mean(stream**2, -1, keepdims=True) + model.config.norm_eps) * norm
    return log_softmax(normed @ head.T.astype(np.float64))


text = "Tom was thirsty. He went to the kitchen to get a glass of"
ids = f16.encode_prompt(text)
seen = {name: lens(model, ids) for name, model in models.items()}
answer = int(seen["f16"][-1].argmax())
print(f"{text} …{tokenizer.decode([answer])!r}")
rows = []
for depth, where in enumerate(["embedding", *(f"layer {i}" for i in layers)]):
    cells = [
        f"`{tokenizer.decode([int(found[depth].argmax())])}` {np.exp(found[depth].max()):.0%}"
        for found in seen.values()
    ]
    rows.append([where, *cells])
display(table(["ends after", *seen], rows))

# %%
picture = Picture(8.6, 2.9, columns=2)
left, right = picture.axes
for name, found in seen.items():
    left.plot(np.exp(found[:, answer]), "o-", ms=3.5, lw=1.4, color=colour_of(name), label=name)
    if name != "f16":
        p = np.exp(seen["f16"])
        right.semilogy(
            (p * (seen["f16"] - found)).sum(1), "o-", ms=3.5, lw=1.4, color=colour_of(name), label=name
        )
left.set(xlabel="depth", ylabel=f"p of {tokenizer.decode([answer])!r}", ylim=(0, 1))
right.set(xlabel="depth", ylabel="KL(f16 || format), nats")
left.legend(fontsize=8, frameon=False)
right.legend(fontsize=8, frameon=False)
display(picture)

# %% [markdown]
# The LM head and norm above are f16's for all three, so what differs is the stream that each format's layers wrote.
#
# ## 6. Your own checkpoint
#
# Any Llama checkpoint goes the same way: a folder with `config.json` and safetensors, or a hub id. Models with a chat
# template offer it in the widget (`chat=True` in Python).

# %%
# mine = "HuggingFaceTB/SmolLM-135M-Instruct"                       # hub id or folder
# convert(mine, "runs/mine/int4", ConvertOptions(WeightFormat("int4"), quantizer="grid"), progress=True)
# Generator({"f16": mine, "int4": "runs/mine/int4"}, prompt="Why is the sky blue?", chat=True, temperature=0.7)
