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
# # Which layers need their bits?
#
# Notebook 01 gave every matrix the same format. But matrices differ: some are read by everything that follows, some
# hardly change the output when they are rounded. If a byte is spent where it buys most, the same file holds a better
# model. This notebook measures what each group of matrices loses in each format, solves for the best mixture exactly,
# for every size at once, and then checks whether the answer keeps its promise:
#
# 1. groups, and why not single matrices
# 2. what each group costs
# 3. the best mixture for every size: a knapsack
# 4. mixtures, and rules of thumb to beat
# 5. does it hold? All at once, on text that nothing was chosen on
# 6. a model from a mixture, and the reasons in its manifest
# 7. from a memory to a format
# 8. by hand: drag the budget, pin what you know better
# 9. your own checkpoint
#
# The embedded model has 7.3 million parameters, so all of this takes less than three minutes on two CPU cores. What
# is sensitive in *this* model need not be in another, and what the text says of results is said of this one. To study
# your own, change the line `CHECKPOINT = ...`: windows, blocks and budgets follow from the model.

# %%
import json

import numpy as np
from IPython.display import display

import workbench
from eval.named_texts import named_text
from eval.texts import encode
from workbench.assets import demo_model_path
from workbench.convert.convert import convert
from workbench.errors import WorkbenchError
from workbench.formats.reader import StoredModel
from workbench.formats.text import parse_format
from workbench.models.tokenizer import load_tokenizer
from workbench.precision.groups import fused_groups, place, unquantized_plan
from workbench.precision.joint import measure_joint
from workbench.precision.memory import fit_memory
from workbench.precision.plots import pareto as pareto_picture
from workbench.precision.sensitivity import TIERS, sensitivity
from workbench.show.notebook import Bars, table
from workbench.studies.fitting import Study
from workbench.widgets import PrecisionMap

CHECKPOINT = demo_model_path()  # or a folder, or a hub id: the one line to change
TEXT = "evaluation"  # held-out stories; or a UTF-8 file, or a data set such as "wikitext2"
FORMATS = ["f16", "int8", "int4/32", "int4", "int4/256", "int2"]  # the candidates
QUANTIZER = "grid"
WINDOWS = 4  # of 256 tokens, for each group and format; more of them narrow the errors of section 2

study = Study(CHECKPOINT, "per_layer_precision", quantizes=True)
RESULTS = study.folder  # everything that this notebook writes
CALIBRATION, HELD_OUT = study.protocol("disjoint-256"), study.protocol("disjoint-512")
candidates = study.formats([parse_format(name) for name in FORMATS])
RESULTS.mkdir(parents=True, exist_ok=True)
print(study)

# %% [markdown]
# ## 1. Groups
#
# A fused kernel reads q, k and v in one go, and gate and up likewise; that needs one format and one block size for
# all of them. So the unit of choice is the *group*: the matrices that read the same input. The plan knows which they
# are. The embedding is a group of its own, together with the LM head where they are one matrix, as here.

# %%
source = study.source
groups = fused_groups(unquantized_plan(source))
total = sum(group.weights for group in groups)
rows = []
for group in groups:
    if group.name.startswith("layers.") and not group.name.startswith("layers.0."):
        continue
    members = ", ".join(f"`{name.removeprefix('model.').removesuffix('.weight')}`" for name in group.tensors)
    sizes = [f"{group.nbytes(parse_format(name)):,}" for name in ("f16", "int8", "int4", "int2")]
    rows.append([group.name, members, f"{group.weights / total:.1%}", *sizes])
header = ["group", "members", "of all weights", "f16, bytes", "int8", "int4", "int2"]
display(table(header, rows))
print(f"{len(groups)} groups in all; the other layers are like the first")

# %% [markdown]
# ## 2. What each group costs
#
# One group at a time is quantized and everything else stays float. The damage is measured where it counts, at the
# output: the Kullback-Leibler divergence from the float model's next-token distribution,
#
# $$ D_{g,f} = \frac1n \sum_i \sum_v p_i(v)\,\ln\frac{p_i(v)}{p_i^{(g \to f)}(v)}, $$
#
# on text that is kept for this purpose. KL rather than perplexity because it is an average of numbers that cannot be
# negative: a thousand tokens tell costs apart that perplexity would bury in noise (section 4 of notebook 01). The
# float run is shared: each variant starts where its group is first read. The table is saved after every window, so a
# measurement that is stopped goes on where it was.

# %%
tokenizer = load_tokenizer(source.tokenizer_path)
calibration = encode(tokenizer, named_text("calibration"), CALIBRATION)
costs = sensitivity(
    source,
    calibration,
    CALIBRATION,
    formats=candidates,
    quantizer=QUANTIZER,
    max_windows=WINDOWS,
    path=RESULTS / "sensitivity.json",
    progress=True,
)
Bars.clear()
print(f"{len(costs.groups)} groups x {len(costs.formats)} formats on {costs.tokens_scored:,} tokens")
display(costs.plot())

# %% [markdown]
# In the embedded model two bits cost some ten to sixty times as much as four, four some two to three hundred times as
# much as eight: formats are further apart than layers. But at equal bits the groups differ by more than an order of
# magnitude, and it is not their size that decides. The table has, for the extreme groups, what INT2 saves against
# INT4 and what each saved kilobyte costs.

# %%
int4, int2 = candidates.index(parse_format("int4")), candidates.index(parse_format("int2"))
saved = (costs.nbytes[:, int4] - costs.nbytes[:, int2]) / 1000
price = (costs.kl[:, int2] - costs.kl[:, int4]) / np.where(saved > 0, saved, np.nan)
order = [g for g in np.argsort(price) if saved[g] > 0]  # narrow rows may be padded to as much as INT4 takes
rows = []
for g in [*order[:4], *order[-4:]]:
    kl = [f"{costs.kl[g, f]:.2e} ± {costs.kl_se[g, f]:.0e}" for f in (int4, int2)]
    rows.append([costs.groups[g].name, *kl, f"{saved[g]:.1f}", f"{price[g]:.1e}"])
header = ["group", "KL in int4", "KL in int2", "INT2 saves, kB", "KL a kB saved"]
display(table(header, rows))

# %% [markdown]
# ## 3. The best mixture for every size
#
# Each group $g$ takes exactly one format $f(g)$, with $b_{g,f}$ bytes. Assume that costs add up; then
#
# $$ \min_f \sum_g D_{g,f(g)} \quad\text{subject to}\quad \sum_g b_{g,f(g)} \le B $$
#
# is a *multiple-choice knapsack*. It is solved exactly: groups are added one by one, and of all partial mixtures only
# those are kept that no other one beats in both bytes and cost. What remains after the last group is the optimum for
# *every* $B$, and asking for one of them is a look-up.
#
# The assumption is the weak point. The errors of two groups can cancel or feed each other, so the sum is a
# prediction, to be verified below.

# %%
front = costs.pareto()
print(f"{len(front):,} optimal mixtures, from {front.bits[0]:.2f} to {front.bits[-1]:.2f} bits a weight")
names = list(map(str, costs.formats))
rows = [
    [f"{row['bits']:.2f}", f"{row['bytes']:,}", f"{row['kl']:.2e}", *(row[name] or "–" for name in names)]
    for row in front.to_rows(11)
]
display(table(["bits a weight", "bytes", "predicted KL", *(f"groups in {name}" for name in names)], rows))

# %% [markdown]
# ## 4. Mixtures
#
# `at(bytes)`, `at_bits(bits)` and `at_kl(nats)` each give an *allocation*: a format for each group, with a reason. To
# have something to beat, here are INT4 everywhere and two rules of thumb, *the first half in INT4* and *attention in
# INT4 and MLPs in INT2*, and for each of them the best mixture with as many bytes.

# %%
wide, narrow = parse_format("int4"), parse_format("int2")


def first_half(group: str):
    layer = place(group)[1]
    return wide if layer is None or layer < study.config.layers / 2 else narrow


def attention(group: str):
    return narrow if ".mlp." in group else wide


rules = {
    "int4 everywhere": front.uniform(wide),
    "int4 in the first half": front.by_rule(first_half, "int4 in the first half"),
    "int4 in attention": front.by_rule(attention, "int4 in attention"),
}
mixtures = {f"mixture, {rule.bits_per_weight:.2f} bits": front.at(rule.nbytes) for rule in rules.values()}
for allocation in mixtures.values():
    display(allocation.plot())

# %% [markdown]
# At the size of INT4 there is little to shift in the embedded model: two bits are far too expensive to pay for eight
# elsewhere, so the solver plays with block sizes, small blocks where it hurts and large ones to pay for them. Below,
# the choice is real. Attention is small and dear, so most of it keeps four bits, and the MLPs pay. The solver finds
# the exceptions, which are what a rule cannot know: a layer whose attention hardly matters, a first MLP that does.
#
# ## 5. Does it hold?
#
# All groups at once, on *held-out* stories: nothing was chosen on them.

# %%
held_out = encode(tokenizer, named_text(TEXT), HELD_OUT)
models = {**rules, **mixtures, "int2 everywhere": front.uniform(narrow)}
joint = measure_joint(source, models, held_out, HELD_OUT, max_windows=6)

measured, rows = {}, []
for name, result in joint.items():
    model, found = models[name], result.figures()
    measured[name] = model.bits_per_weight, found["kl"], found["kl_se"]
    change = f"{np.expm1(found['ln_ratio']):+.2%} ± {np.exp(found['ln_ratio']) * found['ln_ratio_se']:.2%}"
    kl = [f"{model.predicted_kl:.4f}", f"{found['kl']:.4f} ± {found['kl_se']:.4f}"]
    rows.append([name, f"{model.bits_per_weight:.3f}", *kl, f"{found['ppl']:.3f}", change])
header = ["", "bits a weight", "predicted KL", "mean KL, nats", "perplexity", f"change against {study.dtype}"]
display(table(header, rows))
display(pareto_picture(front, measured))

# %% [markdown]
# Each mixture against the rule of its size, paired token by token, errors clustered by window. Negative is a gain of
# the mixture:

# %%
rows = []
for name, rule in zip(mixtures, rules, strict=True):
    kl, nll = joint[name].kl_against(joint[rule]), joint[name].nll_against(joint[rule])
    cells = [f"{pair.mean:+.5f} ± {pair.se_clustered:.5f}" for pair in (kl, nll)]
    rows.append([name, rule, *cells, f"{kl.mean / joint[rule].kl.mean():+.0%}"])
display(table(["mixture", "against", "difference in KL", "in ln perplexity", "of the rule's KL"], rows))

# %% [markdown]
# **How to read it.** KL is what was minimised, and there the mixture gains at every size (of the embedded model): a
# little at INT4, which is nearly optimal for it as it is, more below. Perplexity on a few thousand tokens is a
# noisier judge and may even disagree: a model can lose little on the words that happened to come next and yet have
# moved its distribution further from the original's. And costs do *not* quite add up: with many groups in two bits
# the measured KL lies above the prediction, because each group was measured in an otherwise perfect model. The order
# of the mixtures can survive this; their cost has to be measured, as here.
#
# ## 6. A model from a mixture
#
# An allocation turns into conversion options. Its reasons go into the manifest, tensor by tensor: what the format
# costs, and what the next smaller and larger one would have changed.

# %%
name = list(mixtures)[-1]
chosen = mixtures[name].with_joint("held-out stories", joint[name].figures())
chosen.save(RESULTS / "allocation.json")
made = convert(source.path, RESULTS / "model", chosen.options(overwrite=True))
print(chosen, f"\n\nstored: {made.nbytes:,} bytes, {made.bits_per_weight:.3f} bits a weight")
precision = StoredModel.open(RESULTS / "model").manifest["precision"]
for name in (
    "model.layers.0.mlp.down_proj.weight",
    f"model.layers.{study.middle_layer}.self_attn.q_proj.weight",
):
    print(f"\n{name}:\n  {json.dumps(precision[name]['format'])}: {precision[name]['reason']}")

# %% [markdown]
# The mixed model runs like any other, here through the WGSL kernels if there is an adapter. On the command line this
# section is
#
# ```
# workbench allocate --model DIR --text calibration.txt --bits 3 --output allocation.json
# workbench quantize --model DIR --precision allocation.json --output OUT --set "layers.0.*=int8"
# ```
#
# where `--set` overrules the allocation by the plan's names, as often as wanted.

# %%
model = workbench.load(RESULTS / "model")
print(f"[{model.backend}] Once upon a time", end="")
for piece in model.generate(
    "Once upon a time", max_new_tokens=study.tokens(80, 24), temperature=0.7, top_p=0.95, seed=3
):
    print(piece, end="", flush=True)
print()

# %% [markdown]
# ## 7. From a memory to a format
#
# The other way round: so much memory, what fits? The forecast adds up the plan's weights, the key/value cache and the
# activations, and takes the highest tier that stays within. `workbench quantize --fit-memory 2GB` does the same, and
# `workbench allocate --fit-memory 2GB` fills what is left with the best mixture.

# %%
rows, limit = [], 2**50
for _ in ("16 bits", *TIERS):
    try:
        fit = fit_memory(source, limit)  # of what is left below, the highest tier
    except WorkbenchError:  # of a small model a lower tier may take as much as the one above
        break
    least = fit.tiers[-1][1]
    fit = fit_memory(source, least)
    rows.append([f"{least / 1e6:.1f} MB", fit.format, fit.reason])
    limit = least - 1
display(table(["from this memory on", "takes", "because"], rows))

# %% [markdown]
# ## 8. By hand
#
# `PrecisionMap` puts all of this into one view. Drag the budget, and every group's format follows, since the front of
# section 3 holds the answer for each. Click a group, or the name of a layer or a kind, to pin it to a format: the
# rest is solved anew around it. *Measure* takes the chosen mixture as a whole, as section 5 did, and its tokens a
# second with it. Without a kernel you see a table of where it was left.
#
# A rule that one often hears is that the first layer deserves eight bits. What does it cost to obey it, at 3 bits in
# all?

# %%
view = PrecisionMap(costs, source, held_out=held_out, protocol=HELD_OUT, max_windows=4, bits=3)
view.measure()  # on a thread, as the button does
view.wait()
first_layer = [group.name for group in groups if group.name.startswith("layers.0.")]
view.pin(first_layer, "int8")
view.measure()
view.wait()
display(view)

# %%
free, obedient = view.measured[0], view.measured[-1]
change = obedient.joint.kl_against(free.joint)
print(f"KL with the pins less KL without: {change.mean:+.4f} ± {change.se_clustered:.4f}, paired")
view.save(RESULTS / "by_hand.json")  # as the button does, for workbench quantize --precision
display(view.data().pivot(index="kind", columns="layer", values="format").fillna(""))
display(view.plot("front"))

# %% [markdown]
# Four groups in INT8 are paid for by all others, the embedding among them: in the embedded model the mixture loses
# more than twice as much as the free one of the same size, and the prediction said so before anything was measured.
# Where a rule is right, the pins cost nothing; here one sees what it costs. (The grey line is the best around the
# pins, so the free mixture lies below it; the dashed one is the float model. Tokens a second depend on what else the
# machine does: look at their spread.)
#
# ## 9. Your own checkpoint
#
# Any Llama checkpoint goes the same way: name it in the line `CHECKPOINT = ...` of the first cell. Take text like the
# text that your model is for, and keep other text to verify on. Measuring takes, for each window, about half a
# forward pass a group and format: for a model of 16 layers, 3 formats and 8 windows of 512 tokens that is some 800
# passes, so a large model deserves an evening, and the table is resumed if it is stopped. One table answers every
# later question about sizes.

# %%
# from eval.texts import load_dataset_text
#
# tokens = encode(tokenizer, named_text("calibration.txt"), CALIBRATION)      # yours
# costs = sensitivity(source, tokens, CALIBRATION, quantizer="grid", max_windows=8, path=RESULTS / "mine.json",
#                     progress=True)
# chosen = costs.pareto().at(80_000_000)                                      # bytes
# scheme = study.protocol("wikitext2-gptq-512")
# test = encode(tokenizer, load_dataset_text("wikitext2"), scheme)
# joint = measure_joint(source, {"chosen": chosen}, test, scheme, max_windows=8)
# print(chosen.with_joint("wikitext2", joint["chosen"].figures()))
# convert(source.path, RESULTS / "mine", chosen.options(), progress=True)
