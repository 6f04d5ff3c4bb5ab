"""What a plan ends with, whatever the model: logits, scores, or the next token and how likely it was."""

from __future__ import annotations

from collections.abc import Callable

from wgsl_kernels.layout import OPTION_WORDS, parts_of_row, seen_words
from workbench.models.blocks import Blocks
from workbench.plan.plan import Plan

#: "all": logits of every token. "last": of the rows that a step names. "score": log-likelihood of given targets and the
#: argmax, every token. "greedy": one token in, its successor into the next step's input. "draw": likewise, the
#: successor drawn as options say. "told": likewise, with ln p of it and of the `LIKELY` likeliest tokens.
HEADS = ("all", "last", "score", "greedy", "draw", "told")

#: So many of the likeliest tokens are told beside one that was drawn.
LIKELY = 5

#: Logits of some rows: called as logits(x, buffer) with the buffer to write.
Logits = Callable[[str, str], None]


def end(plan: Blocks, x: str, vocab_size: int, write_logits: Logits, head: str) -> Plan:
    """The finished plan. x: the rows that the LM head reads, in the activations' type."""
    chosen_rows = head in ("last", "draw", "told")
    if chosen_rows:
        _, width = plan.shape(x)
        selected = plan.buffer("last", ("results", width), plan.act, "activation")
        plan.buffer("result_rows", ("results",), "u32", "input")
        plan.call("select_rows", {"x": x, "rows": "result_rows"}, {"y": selected})
        x = selected
    logits = plan.buffer("logits", ("results" if chosen_rows else "tokens", vocab_size), "f32", "activation")
    write_logits(x, logits)
    if head in ("all", "last"):
        return plan.finish(["logits"])
    if chosen_rows:
        return _drawn(plan, logits, vocab_size, told=head == "told")
    top = plan.buffer("top1", ("tokens",), "u32", "activation")
    plan.call("argmax", {"x": logits}, {"index": top})
    if head == "score":
        plan.buffer("targets", ("tokens",), "u32", "input")
        likelihood = plan.buffer("log_likelihood", ("tokens",), "f32", "activation")
        plan.call("target_log_likelihood", {"x": logits, "targets": "targets"}, {"y": likelihood})
        return plan.finish(["log_likelihood", "top1"])
    return plan.finish(_advance(plan, top))


def _advance(plan: Blocks, token: str) -> list[str]:
    plan.buffer("history", ("steps", "tokens"), "u32", "input")
    moved = {"ids": "ids", "history": "history", "state": "state"}
    plan.call("advance", {"token": token, **moved}, moved)
    return ["history"]


def _drawn(plan: Blocks, logits: str, vocab_size: int, *, told: bool) -> Plan:
    """A token drawn from logits [1, vocab], and how likely it and others were."""
    count, parts = min(LIKELY, vocab_size), parts_of_row(vocab_size)
    if told:
        values = plan.buffer("likely_logits", (1, count), "f32", "activation")
        likely = plan.buffer("likely", (1, count), "u32", "activation")
        plan.call("top_k", {"x": logits}, {"values": values, "indices": likely}, k=count)
    plan.buffer("options", (OPTION_WORDS,), "u32", "input")
    plan.buffer("seen", (seen_words(vocab_size),), "u32", "input")
    token = plan.buffer("token", (1,), "u32", "activation")
    inputs = {"x": logits, "seen": "seen", "options": "options", "state": "state"}
    plan.call("sample", inputs, {"token": token, "seen": "seen"})
    if not told:
        return plan.finish(_advance(plan, token))
    sums = {port: plan.buffer(f"sums.{port}", (parts,), "f32", "activation") for port in ("largest", "total")}
    plan.call("exp_sums", {"x": logits}, sums, parts=parts)
    plan.buffer("told", ("steps", count + 1), "f32", "input")
    plan.buffer("told_ids", ("steps", count), "u32", "input")
    record = {"told": "told", "told_ids": "told_ids"}
    inputs = {"x": logits, "token": token, "likely": likely, **sums, "state": "state", **record}
    plan.call("tell", inputs, record)
    return plan.finish([*_advance(plan, token), *record])
