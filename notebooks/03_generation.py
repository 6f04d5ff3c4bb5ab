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
# 6. changing an activation in flight: switching parts off, and steering what is written
# 7. your own checkpoint
#
# Everything runs through the WGSL kernels, on a GPU or on a CPU with a software adapter. What the text says of
# results is said of the embedded model (7.3 million parameters, children's stories). To study another one, change the
# line `CHECKPOINT = ...`: lengths follow from the model, and what is written gets a folder of its own.

# %%
import numpy as np
from IPython.display import display

import workbench
from eval.bounded_attention import bounded_attention
from eval.early_exit import Rule, early_exits
from eval.statistics import log_softmax, mean_error
from workbench.assets import STORY_SEPARATOR, demo_model_path, evaluation_text
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import ProtocolError
from workbench.formats.spec import WeightFormat
from workbench.runtime.sampling import SamplingOptions, filter_logits, softmax
from workbench.show.figures import Picture, colour_of
from workbench.show.notebook import Bars, table
from workbench.studies.continuation import continue_prompt
from workbench.studies.fitting import Study
from workbench.studies.tokens import Names
from workbench.widgets import Generator

CHECKPOINT = demo_model_path()  # or a folder, or a hub id: the one line to change
PROMPT = "Once upon a time, there was a little dog named"

study = Study(CHECKPOINT, "generation", quantizes=True)
RESULTS = study.folder  # everything that this notebook writes
BASE = study.dtype  # what the unquantized model is stored as
NEW = study.tokens(100, 64)  # tokens of a text

paths = {BASE: study.source.path}
for dtype in ("int4", "int2"):
    paths[dtype] = RESULTS / "models" / dtype
    options = ConvertOptions(WeightFormat(dtype), quantizer="grid", overwrite=True)
    convert(study.source.path, paths[dtype], options)
Bars.clear()
models = {name: workbench.load(path) for name, path in paths.items()}
base, tokenizer = models[BASE], models[BASE].tokenizer
names = Names(tokenizer)  # tokens as text; bytes that are no whole character as <0xE6>
print(study)
print("on", base.device_name)

# %% [markdown]
# ## 1. Side by side
#
# Two models continue one prompt with the same sampler and the same seed. Then each reads the other's text, so that
# every token has $\mathrm{KL}(\text{float} \,\|\, \text{INT4})$ at its place. Colour is KL, underlined is where the
# two differ in the most likely token, and the bar stands where the texts part. Point at a token (or walk with the
# arrow keys) to see what else was likely; Stop works while other cells run. Without a kernel the table below shows
# the finished run.

# %%
pair = Generator(
    {BASE: base, "int4": models["int4"]}, prompt=PROMPT, temperature=0.7, seed=4, max_new_tokens=NEW
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
display(table(["token", "text", f"p({BASE})", "KL, nats", "most likely differs"], rows))

# %% [markdown]
# ## 2. Where they part
#
# A sampler draws one random number $u$ a token and takes the token whose interval of the cumulative distribution
# holds it. Two models with the same $u$ agree unless it falls where their cumulative distributions differ. So they
# stay together longest where both are sure, and KL says where they are not: uncertain places are where formats show.
# Surprise ($-\ln p$) and KL of every token of the unquantized model's text, once for INT4 and once for INT2:

# %%
sampling = SamplingOptions(temperature=0.7, seed=4)
runs = {
    name: continue_prompt({BASE: base, name: models[name]}, PROMPT, max_new_tokens=NEW, sampling=sampling)
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
left.set(xlabel=f"token of the {BASE} text", ylabel=f"KL({BASE} || format), nats")
right.set(xlabel=f"surprise of {BASE}, −ln p, nats", yscale="log")
left.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
display(picture)

# %%
rows = []
for name, each in runs.items():
    first, second = each.continuations
    parted = "–" if each.parted is None else each.parted
    flips = f"{first.flips} of {len(first.tokens)}"
    rows.append([name, parted, f"{first.mean_kl:.4f}", flips, second.text[:60].replace("\n", " ") + " …"])
display(table(["", "parts at token", f"mean KL on {BASE}'s text", "flips", "its own text"], rows))

# %% [markdown]
# ## 3. What a sampler leaves
#
# Logits become probabilities by a softmax over the temperature; then filters remove tokens, each from what the one
# before left: top-k keeps the $k$ best, top-p the fewest whose probabilities reach $p$, min-p those with at least
# that share of the best one's probability. Here the next token after the prompt, under some settings:

# %%
ids = base.encode_prompt(PROMPT)
logits = base.forward(ids).logits[-1]
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
    best = [f"`{names(int(i))}` {p[i]:.1%}" if p[i] else "–" for i in np.argsort(-p)[:4]]
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
    [found] = continue_prompt(base, PROMPT, max_new_tokens=40, sampling=options).continuations
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
layers = range(base.config.layers)
stages = ["embedded", *(f"layers.{i}.out" for i in layers)]
norm = base.source.tensor("model.norm.weight").dequantize()
tied = base.config.tied_embeddings  # then the embedding is the LM head too
head = base.source.tensor("model.embed_tokens.weight" if tied else "lm_head.weight").dequantize()


def lens(model, ids):
    """Log probabilities [depth, vocab] after the last of `ids`, as if the model ended at each depth."""
    kept = model.forward(ids, keep=stages).kept
    stream = np.stack([kept[name][-1] for name in stages]).astype(np.float64)
    normed = stream / np.sqrt(np.mean(stream**2, -1, keepdims=True) + model.config.norm_eps) * norm
    return log_softmax(normed @ head.T.astype(np.float64))


text = "Tom was thirsty. He went to the kitchen to get a glass of"
ids = base.encode_prompt(text)
seen = {name: lens(model, ids) for name, model in models.items()}
answer = int(seen[BASE][-1].argmax())
print(f"{text} …{names(answer)!r}")
rows = []
for depth, where in enumerate(["embedding", *(f"layer {i}" for i in layers)]):
    cells = [
        f"`{names(int(found[depth].argmax()))}` {np.exp(found[depth].max()):.0%}" for found in seen.values()
    ]
    rows.append([where, *cells])
display(table(["ends after", *seen], rows))

# %%
picture = Picture(8.6, 2.9, columns=2)
left, right = picture.axes
for name, found in seen.items():
    left.plot(np.exp(found[:, answer]), "o-", ms=3.5, lw=1.4, color=colour_of(name), label=name)
    if name != BASE:
        p = np.exp(seen[BASE])
        kl = (p * (seen[BASE] - found)).sum(1).clip(1e-9)  # where nothing differs, rounding leaves less
        right.semilogy(kl, "o-", ms=3.5, lw=1.4, color=colour_of(name), label=name)
left.set(xlabel="depth", ylabel=f"p of {names(answer)!r}", ylim=(0, 1))
right.set(xlabel="depth", ylabel=f"KL({BASE} || format), nats")
left.legend(fontsize=8, frameon=False)
right.legend(fontsize=8, frameon=False)
display(picture)

# %% [markdown]
# The LM head and norm above are the unquantized model's for all three, so what differs is the stream that each
# format's layers wrote.
#
# **Leaving early.** If the lens is sure in the middle of the model, why run the rest? Here every token of a text may
# leave after some depths: at the first one where the likeliest token's probability is a margin above the second one's,
# or the entropy is low enough. The layers that it leaves out take their keys and values from where it left, so that
# later tokens have something to look at (Schuster et al. 2022). What that saves of the layers, and costs against the
# whole model on the same tokens:

# %%
read = base.encode_prompt(evaluation_text().read_text("utf-8")[:1200])[: study.tokens(160, 64)]
rules = [Rule("margin", 0.95), Rule("margin", 0.8), Rule("entropy", 0.1), Rule("entropy", 1.0)]
display(early_exits(base, [read], rules))

# %% [markdown]
# Each look costs an LM head and comes to the host, so that layers saved are not time saved. Attention could stop early
# too: where the scores of what is left of the cache are bounded so low that it has no more than a share of the softmax.
# The bounds hold, and save next to nothing; the column beside them says what could be saved by who knew the scores
# ([docs/engine.md](../docs/engine.md)):

# %%
try:
    display(bounded_attention(base, [read], [0.1, 0.5, 0.9]))
except ProtocolError as error:  # windows are bounds of their own
    print(f"Not of this model: {error}")

# %% [markdown]
# ## 6. Changing an activation in flight
#
# `edit={name: function}` puts a function between the kernel that writes an activation and those that read it.
# `function(x, position)` gets its rows `[tokens, width]` of a step, the first one's token at `position` in the
# sequence, and returns what takes their place. `forward`, `score`, `generate` and `session` all take it. A step stops
# at each edited name, comes to Python and goes on, so an edit costs a readback a step; without edits nothing changes.
#
# What does each part of the model do for its predictions? Zero what attention or the MLP of one layer adds to the
# residual stream, and see what it costs (ablation). Mean change of the loss on three held-out stories in nats a
# token, paired token by token, ± its standard error (clustered by story, or with tokens as independent where that is
# larger):

# %%
STORIES, TOKENS = 3, study.tokens(192)
stories = evaluation_text().read_text("utf-8").split(STORY_SEPARATOR)[:STORIES]
stories = [tokenizer(story.strip(), truncation=True, max_length=TOKENS)["input_ids"] for story in stories]
story_index = np.repeat(np.arange(len(stories)), [len(story) - 1 for story in stories])


def losses(model, edit=None):
    return np.concatenate([model.score(story, edit=edit).nll for story in stories])


def zero(x, position):
    return np.zeros_like(x)


compared = (BASE, "int2")
whole = {name: losses(models[name]) for name in compared}
print(", ".join(f"{name}: {loss.mean():.3f} nats a token" for name, loss in whole.items()))
rows = []
for layer in layers:
    cells = []
    for name in compared:
        for part in ("attn", "mlp"):
            change = losses(models[name], {f"layers.{layer}.{part}.out": zero}) - whole[name]
            cells.append(f"{change.mean():+.3f} ± {mean_error(change, story_index):.3f}")
    rows.append([str(layer), *cells])
parts = [f"{name}, without {part}" for name in compared for part in ("attention", "MLP")]
display(table(["layer", *parts], rows))

# %% [markdown]
# The first MLP is the one that the embedded model cannot do without, in either format. Of the rest, in f16 only the
# attention of layer 2 counts clearly: the others make up for any one that is missing. INT2 has less to spare, in the
# first layers above all.
#
# **Steering.** The residual stream holds directions for what a text is about. The difference between its means over
# sentences of two moods is one of them (Turner et al. 2023, "activation addition"; Rimsky et al. 2024, "contrastive
# activation addition"). Added in the middle of the model, while prompt and continuation pass through it, it changes
# the mood of what comes:

# %%
PLACE = f"layers.{base.config.layers // 2}.out"
SAD = (
    "Tom was very sad. He cried and cried because",
    "The little girl was sad and alone. She started to cry and",
    "It was a bad day. Ben lost his toy and felt sad. He",
    "Mia was scared and hurt. She cried and said",
)
HAPPY = (
    "Tom was very happy. He laughed and laughed because",
    "The little girl was happy and loved. She started to laugh and",
    "It was a good day. Ben found his toy and felt happy. He",
    "Mia was glad and safe. She smiled and said",
)


def mean_stream(model, sentences):
    kept = [model.forward(model.encode_prompt(each), keep=PLACE).kept[PLACE].mean(0) for each in sentences]
    return np.mean(kept, axis=0)


vector = mean_stream(base, HAPPY) - mean_stream(base, SAD)  # [hidden], one for all formats
SENTENCE = "The boy saw the dog. He was very"
ids = base.encode_prompt(SENTENCE)
lengths = {}
for name in compared:
    stream = models[name].forward(ids, keep=PLACE).kept[PLACE]
    lengths[name] = np.linalg.norm(stream, axis=1)[1:].mean()  # the first token's is far longer
    print(f"{name}: a row of {PLACE} is {lengths[name]:.1f} long")


def steered(name, strength):
    """strength: the length of what is added, as a share of the model's own stream there."""
    added = strength * lengths[name] / np.linalg.norm(vector) * vector
    return {PLACE: lambda x, position: x + added}


prompt = "One day, a boy named Tim went to the park. He"
rows = []
for name in compared:
    for strength in (-0.5, 0, 0.5):
        pieces = models[name].generate(prompt, max_new_tokens=40, edit=steered(name, strength))
        rows.append([name, f"{strength:+.0%}" if strength else "0", "".join(pieces).replace("\n", " ")])
print(f"{prompt} …")
display(table(["", "strength", "text, greedy"], rows))

# %% [markdown]
# How strong should it be? The probability of some next words (of all their tokens) against the strength, unquantized
# and in INT2, with the direction that the unquantized model gave: in the embedded model it outlives quantization to
# two bits. (Its INT2 stream is shorter, since rounding to four levels by least squares shortens weights and a gated
# MLP multiplies by three such matrices; so strength counts in lengths of each model's own stream.)

# %%
WORDS = (" happy", " excited", " sad", " scared")
strengths = np.linspace(-1, 1, 17)
picture = Picture(8.6, 2.9, columns=2, sharey=True)
for axes, name in zip(picture.axes, compared, strict=True):
    for word, line in zip(WORDS, ("-", "--", "-", "--"), strict=True):
        whole = base.encode_prompt(SENTENCE + word)
        scores = [models[name].score(whole, edit=steered(name, strength)).nll for strength in strengths]
        p = [np.exp(-nll[len(ids) - 1 :].sum()) for nll in scores]  # the words' own tokens stand behind `ids`
        colour = "C1" if word in WORDS[:2] else "C0"
        axes.plot(strengths, p, line, lw=1.5, color=colour, label=repr(word))
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.set(xlabel="strength, share of the stream (+ happy, − sad)", ylabel="p of the next word", title=name)
picture.axes[0].legend(fontsize=8, frameon=False, loc="upper left", ncols=2)
picture.axes[0].set_ylim(bottom=-0.01)
display(picture)

# %% [markdown]
# ## 7. Your own checkpoint
#
# Any Llama checkpoint goes the same way: name a folder with `config.json` and safetensors, or a hub id, in the line
# `CHECKPOINT = ...` of the first cell. Models with a chat template offer it in the widget (`chat=True` in Python).

# %%
# Generator({BASE: base, "int4": models["int4"]}, prompt="Why is the sky blue?", chat=True, temperature=0.7)
