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
# # Which expert, and at what price?
#
# In a mixture of experts a *router* sends each token to a few of many small MLPs. That is a decision, and decisions are
# where small errors become large ones: a router whose input is off by a little sends a token to an expert that has
# learned something else. Quantization therefore costs a mixture twice, once by the experts' own weights and once by
# tokens that go astray. This notebook takes the two apart:
#
# 1. the model, and its versions
# 2. which expert takes what
# 3. which tokens go elsewhere after quantization
# 4. what that costs: the quantized weights with the routes of the float model
# 5. what each expert costs alone, beside its traffic
# 6. your own mixture
#
# It runs on the embedded mixture (3.2 million parameters, 8 experts of which a token goes to 2, children's stories) in
# less than two minutes on two CPU cores. That model is small and was trained for four minutes: **its figures show how
# to look, and not what quantization costs a mixture**. For that, change the line `CHECKPOINT = ...`.

# %%
import numpy as np
from IPython.display import Markdown, display

import workbench
from eval.held_routes import HeldRoutes
from eval.named_texts import named_text
from eval.perplexity import perplexities
from eval.protocols import protocol
from eval.texts import encode
from workbench.assets import mixture_model_path
from workbench.formats.text import parse_format
from workbench.precision.experts import expert_sensitivity
from workbench.show.figures import Picture
from workbench.show.notebook import table
from workbench.studies.fitting import Study
from workbench.studies.tokens import Names

CHECKPOINT = mixture_model_path()  # or a folder, or a hub id: the one line to change
TEXT = "evaluation"  # held-out stories; or a UTF-8 file, or a data set such as "wikitext2"
FORMATS = ["int4", "int2"]
WINDOWS = 4  # of 256 tokens; more of them narrow the errors
EXPERT_WINDOWS = 2  # of 128 tokens, for each expert and format in section 5

study = Study(CHECKPOINT, "mixtures_of_experts", quantizes=True)
RESULTS = study.folder  # everything that this notebook writes
SCHEME, SHORT = study.protocol("disjoint-256"), study.protocol("disjoint-128")
RESULTS.mkdir(parents=True, exist_ok=True)
print(study)

# %% [markdown]
# ## 1. The versions
#
# Rounded to nearest, everything but the routers: these are small, and stay f32. So what follows is never a router that
# computes badly, but one that is given something else to read.

# %%
BASELINE = study.dtype
models = {BASELINE: workbench.load(study.source, backend="torch")}
for name in FORMATS:
    models[name] = workbench.quantize(study.source, name, progress=False, execution={"backend": "torch"})
display(table(["the model", ""], [[key, value] for key, value in study.config.facts().items()]))

# %% [markdown]
# ## 2. Which expert takes what
#
# `workbench.routing` runs all versions on the same tokens and keeps where each token went. Left to itself a router
# prefers the experts that are already good and starves the others; training adds a loss that evens them out (Fedus et
# al. 2022). Where all are used alike, each of $n$ experts takes $k / n$ of the tokens: a quarter for 2 of 8.

# %%
found = workbench.routing(models, TEXT, SCHEME, baseline=BASELINE, max_windows=WINDOWS, progress=False)
traffic = found.traffic(BASELINE)

picture = Picture(1.6 + 0.55 * traffic.shape[1], 1.2 + 0.4 * len(traffic))
[axes] = picture.axes
axes.grid(False)
axes.imshow(traffic, cmap="Blues", vmin=0, aspect="auto")
if traffic.size <= 512:
    for (layer, expert), share in np.ndenumerate(traffic):
        dark = share > 0.7 * traffic.max()
        colour = "white" if dark else "black"
        axes.text(expert, layer, f"{share:.0%}", ha="center", va="center", fontsize=8, color=colour)
axes.set(
    xlabel="expert", ylabel="layer", title=f"tokens of {found.caption.split(',')[0]} that go to each expert"
)
axes.set_xticks(range(0, traffic.shape[1], -(-traffic.shape[1] // 16)))
axes.set_yticks(range(0, len(traffic), -(-len(traffic) // 16)))
display(picture)

# %% [markdown]
# What does an expert take? For one layer, the tokens that each expert gets more often than chance would have it: with
# the number of times, and in brackets how many of all the occurrences went there.

# %%
layer = study.middle_layer if len(found.routers) == study.config.layers else len(found.routers) // 2
spelled, chosen = Names(models[BASELINE].tokenizer), found.chosen[BASELINE][layer]
occurrences = np.bincount(found.ids, minlength=study.config.vocab_size)
rows = []
for expert in range(min(traffic.shape[1], 16)):
    taken = np.bincount(found.ids[(chosen == expert).any(1)], minlength=len(occurrences))
    # how far the count is beyond what the expert's share of the traffic would give, in standard deviations
    share = traffic[layer, expert]
    surplus = (taken - share * occurrences) / np.sqrt(np.maximum(share * occurrences, 1))
    best = [int(token) for token in np.argsort(-surplus)[:6] if surplus[token] > 0]
    words = ", ".join(
        f"`{spelled(t).strip() or '␣'}` {taken[t]} ({taken[t] / occurrences[t]:.0%})" for t in best
    )
    rows.append([f"{expert}", f"{share:.1%}", words])
display(table([f"expert of {found.layers[layer]}", "traffic", "takes above all"], rows))

# %% [markdown]
# ## 3. Which tokens go elsewhere
#
# A token *flips* in a layer where the set of its experts is another one than in the baseline. Both versions read the
# same tokens, so the share is a paired figure; its error is clustered by window, since tokens of one text are alike.

# %%
display(Markdown(found.table().markdown()))
display(found.plot())

# %% [markdown]
# The right picture says who flips: those whose choice was close. A router's *margin* is the distance between the last
# logit that was chosen and the first that was not. Where it is wide, nothing happens; where two experts were nearly
# equal, either will do nearly as well, so that a share of flips alone says little about the damage.

# %%
data = found.data()
shown = data.groupby("model", sort=False)[["flips", "exchanged", "margin_flipped", "margin_kept"]].mean()
rows = [
    [name, f"{row.flips:.1%}", f"{row.exchanged:.1%}", f"{row.margin_flipped:.3f}", f"{row.margin_kept:.3f}"]
    for name, row in shown.iterrows()
]
head = ["mean over layers", "tokens that flip", "choices exchanged", "median margin, flipped", "not flipped"]
display(table(head, rows))

# %% [markdown]
# ## 4. What flips cost
#
# A correlation between flips and losses would prove nothing: tokens that are hard to place are hard to predict. But an
# experiment is possible. `HeldRoutes` runs a quantized model and replaces the logits of all its routers by those of the
# float model, so that each token goes where it went before, with the scores that it had. What is still lost then is the
# loss of the weights; what holding the routes takes away is the loss of routing.

# %%
held = {f"{name}, routes held": HeldRoutes(models[name], models[BASELINE]) for name in FORMATS}
text = named_text(TEXT)
results = perplexities({**models, **held}, text, SCHEME, baseline=BASELINE, max_windows=WINDOWS)
rows = [[BASELINE, f"{results[BASELINE].ppl:.3f}", "", "", ""]]
for name in FORMATS:
    own = results[name].baseline
    for each in (name, f"{name}, routes held"):
        pair = results[each].baseline
        part = "" if each == name else f"{1 - pair.kl_mean / own.kl_mean:.0%}"
        cells = [f"{results[each].ppl:.3f}", f"{pair.ln_ratio:+.4f} ± {pair.ln_ratio_error:.4f}"]
        rows.append([each, *cells, f"{pair.kl_mean:.4f} ± {pair.kl_error:.4f}", part])
header = [
    "version",
    "perplexity",
    "ln(PPL ratio) ± SE",
    "mean KL ± SE",
    "of the KL is routing's",
]
display(table(header, rows))

# %% [markdown]
# ## 5. What each expert costs
#
# The other half, expert by expert: one expert is quantized and all the others stay float. It is the measurement of
# notebook 05 with experts in place of groups. Blocks of weights lie along rows, so an expert's rows hold what they
# would hold if the whole layer were quantized. An expert that more tokens go to should cost more; how much of the
# differences that explains is the rank correlation above each picture. The numbers are layers: what an early layer gets
# wrong is read by all that follow.
#
# All experts of a layer have one format in this workbench (they lie in one matrix, which kernels read by rows), so that
# these figures say what formats by expert *would* be worth.

# %%
tokens = encode(models[BASELINE].tokenizer, text, protocol(SHORT))
formats = [parse_format(name) for name in FORMATS]
costs = expert_sensitivity(study.source, tokens, SHORT, formats=formats, max_windows=EXPERT_WINDOWS)
costs.save(RESULTS / "experts.json")
display(costs.plot())

# %% [markdown]
# Only the sum over all tokens counts for the model; divided by the tokens that went there it says whether an expert is
# delicate or merely busy. The dearest and the cheapest:

# %%
frame = costs.data()
last = frame[frame["format"] == frame["format"].iloc[-1]].sort_values("kl", ascending=False)
rows = [
    [
        f"{row.layer}, {row.expert}",
        f"{row.traffic:.1%}",
        f"{row.kl:.1e} ± {row.kl_se:.0e}",
        f"{row.kl_routed:.1e}",
    ]
    for _, row in (last if len(last) <= 10 else last.iloc[[0, 1, 2, 3, 4, -5, -4, -3, -2, -1]]).iterrows()
]
display(
    table([f"expert, {last['format'].iloc[0]}", "traffic", "KL, nats a token", "KL a routed token"], rows)
)

# %% [markdown]
# ## 6. Your own mixture
#
# Any Qwen3-MoE, Mixtral or Llama 4 checkpoint that fits the memory twice (docs/models.md). A longer training of the
# embedded one is a command (`workbench/assets/train/README.md`). On a GPU leave `backend="torch"` out: choices are
# handed out by every backend. How many flips a backend alone causes is the same call with one model twice:
#
# ```python
# two = {backend: workbench.load(CHECKPOINT, backend=backend) for backend in ("torch", "wgpu")}
# workbench.routing(two, TEXT, baseline="torch")
# ```
