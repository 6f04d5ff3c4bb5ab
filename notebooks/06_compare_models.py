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
# # Whose quantization is best?
#
# Several files claim to be the same model in fewer bits. Which one is it worth to keep? A single perplexity each does
# not say: its error is larger than most differences, and a model can keep its perplexity and still answer otherwise.
# This notebook puts versions of one model under one protocol and pairs each with the same baseline, token by token:
#
# 1. the versions
# 2. one table
# 3. two pictures
# 4. two versions against each other
# 5. your own versions
#
# A language model under it, SmolLM2-135M on WikiText-2 in INT4, blocks of 64 (the first 16,376 tokens of
# `disjoint-2048`, NVIDIA H200; last words of LAMBADA's first 1,000 passages, of which f16 knows 29.7 %):
#
# | quantizer | paired change, % | KL, nats | p99 | same top-1, % | last words, points |
# |:--|--:|--:|--:|--:|--:|
# | round to nearest | +32.0 ± 0.9 | 0.321 ± 0.003 | 1.74 | 69.8 ± 0.4 | -13.4 ± 1.2 |
# | GPTQ | +12.8 ± 0.5 | 0.123 ± 0.002 | 0.90 | 80.8 ± 0.3 | -5.3 ± 1.0 |
# | trained | +7.1 ± 0.4 | 0.077 ± 0.001 | 0.61 | 85.1 ± 0.3 | -1.4 ± 0.9 |
#
# It runs on the embedded model (7.3 million parameters, children's stories) in less than three minutes on two CPU
# cores. **Figures of the embedded 7M model show that the code works, and not what quantization costs**: to learn
# that, change the line `MODEL = ...`.

# %%
import re

from IPython.display import display

import workbench
from eval.comparison import compare
from eval.documents import split_documents
from eval.lambada import Passages
from eval.texts import load_text
from workbench.assets import STORY_SEPARATOR, demo_model_path, evaluation_text
from workbench.convert.calibration import CalibrationOptions
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.spec import WeightFormat
from workbench.model_bench.demo import evaluation_tokens
from workbench.model_bench.measure import Settings
from workbench.models.tokenizer import load_tokenizer, prepends_bos
from workbench.show.notebook import Bars, table
from workbench.studies.fitting import Study

# "smollm2-135m" (after `workbench fetch smollm2-135m`) is a language model that a CPU can still measure.
MODEL = demo_model_path()  # or a folder, a hub id, a fetched name: the one line to change
study = Study(MODEL, "compare_models", quantizes=True)
RESULTS = study.folder  # everything that this notebook writes
settings = study.settings(Settings("disjoint-512", windows=8, repetitions=3))  # more windows, narrower errors
print(study)

# %% [markdown]
# ## 1. The versions
#
# Round to nearest (`rtn`) in three widths, and in four bits also GPTQ, which learns from a calibration text. A version
# may come from anywhere, as long as it is a folder, a hub id or a fetched name and has the baseline's tokenizer. What
# was made from another checkpoint than the baseline is noted below the table.

# %%
separator = STORY_SEPARATOR if prepends_bos(load_tokenizer(study.source.tokenizer_path)) else None
calibration = CalibrationOptions(windows=12, length=512, separator=separator)
BASELINE = study.dtype
versions, rows = {BASELINE: study.source.path}, []
for name, dtype, more in (
    ("int8", "int8", {}),
    ("int4", "int4", {}),
    ("int4 gptq", "int4", {"quantizer": "gptq", "calibration": calibration}),
    ("int2", "int2", {}),
):
    versions[name] = RESULTS / name.replace(" ", "-")
    made = convert(study.source, versions[name], ConvertOptions(WeightFormat(dtype), overwrite=True, **more))
    rows.append([name, f"{made.bits_per_weight:.3f}", f"{made.nbytes:,}", f"{made.seconds:.0f} s"])
display(table(["version", "bits a weight", "bytes", "made in"], rows))

# %% [markdown]
# ## 2. One table
#
# All versions are loaded at once and take turns in each window of held-out stories, so that the baseline runs once.
# For the last words, each passage here is the first sentence of a story. For a language model take LAMBADA's
# passages, `load_passages("lambada", 500)`: they were chosen so that the last word can only be guessed from all of the
# passage, which makes them a hard test for a damaged model.

# %%
stories = split_documents(load_text(evaluation_text()).content, STORY_SEPARATOR)
sentences = [" ".join(re.split(r"[.!?\"]", story)[0].split()) for story in stories]
passages = Passages(
    tuple(each for each in sentences if each.count(" ") > 4)[:150], "first sentences of stories"
)

found = workbench.compare_models(
    versions,
    BASELINE,
    evaluation_tokens(study.source.tokenizer_path, settings.scheme),
    settings,
    passages=passages,
    progress=Bars(),
)
Bars.clear()
found.save(RESULTS / "comparison.json")
display(found)

# %% [markdown]
# **How to read it.**
#
# - *Paired change* is that of the perplexity against the baseline's, with the error of the token by token differences.
#   Two standard errors around it that include zero mean: not told apart on this text.
# - *KL* compares whole distributions of the next token. Its mean may hide a few places that are far off; the
#   percentiles show them. *KL p99.9* is exceeded at one token in a thousand.
# - *Δp* is the change of the probability of the token that really came next. Its mean is a bias, its RMS a noise;
#   symmetric noise hardly moves a perplexity but changes answers. *p0.1* and *p99.9* are its tails.
# - *Same top-1* is the share of places where greedy decoding would choose the same token.
# - *Last word* is the share of passages whose last word greedy decoding gives. *Its paired change* comes from
#   the passages on which the two disagree, so that its error is smaller than that of either share.
# - Tokens a second of a CPU say nothing of a GPU.
#
# `found.data()` is the same as a DataFrame, unrounded and with more percentiles; `found.table().format("latex")` is
# for a paper; the file `comparison.json` has provenance, and `workbench table --detailed` reads it.

# %%
data = found.data().set_index("model")
data[["bits_per_weight", "kl_p99.9", "kl_max", "delta_p_p1", "delta_p_p99", "last_word_change"]].round(4)

# %% [markdown]
# ## 3. Two pictures
#
# Left, how far off the worst tokens are: curves that lie close together at the median and part at the right differ
# where it matters least often and most. Right, what the size buys, with paired errors; the axis is linear around zero,
# where a loss may have either sign, and logarithmic beyond.

# %%
display(found.plot(RESULTS / "comparison.pdf"))

# %% [markdown]
# ## 4. Two versions against each other
#
# Two errors against the baseline do not say whether two *versions* differ: both were measured on the same tokens, so
# their difference is paired as well and has an error of its own.

# %%
results = {each.name: each for each in found.versions}
rows = []
for name, other in (("int4 gptq", "int4"), ("int8", "int4 gptq"), ("int2", "int4")):
    pair = compare(results[name].result, results[other].result)
    words = results[name].last_words.against(results[other].last_words)
    mean, se = pair.ln_ratio, pair.ln_ratio_error
    cells = [f"{mean:+.5f} ± {se:.5f}", f"{mean / se:+.1f}"]
    cells += [f"{pair.same_top1:.1%}", f"{words.difference:+.1%} ± {words.se:.1%}"]
    rows.append([name, other, *cells, f"{words.gained} / {words.lost}"])
header = [
    "version",
    "against",
    "ln(PPL ratio)",
    "in standard errors",
    "same top-1",
    "last words",
    "gained / lost",
]
display(table(header, rows))

# %% [markdown]
# ## 5. Your own versions
#
# On a terminal the same is
#
# ```
# workbench compare-models A B C --baseline CHECKPOINT --dataset wikitext2 --protocol disjoint-2048 \
#     --lambada lambada --examples 1000 --json comparison.json --plot comparison.png
# ```
#
# where A, B and C are folders, hub ids or names of `workbench models`. All of them are in memory together; compare
# large ones two at a time, with the same baseline and text.

# %%
# from eval.lambada import load_passages
# from eval.texts import load_dataset_text
#
# found = workbench.compare_models(
#     {"as it is": "smollm2-135m", "mine": "runs/mine", "theirs": "owner/name"},
#     "as it is",
#     load_dataset_text("wikitext2"),
#     Settings("disjoint-2048", windows=8),
#     passages=load_passages("lambada", 1000),
# )
# found
