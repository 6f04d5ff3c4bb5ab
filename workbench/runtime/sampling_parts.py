"""Rewriting `sample` over a large vocabulary into the same in parts of the row, which occupy a whole GPU."""

from __future__ import annotations

from collections.abc import Iterable

from wgsl_kernels.layout import parts_of_row
from wgsl_kernels.sample import BIN_WORDS, ROUNDS
from workbench.plan.plan import Buffer, Call, Plan

from .rewriter import Rewriter

#: A single workgroup is as fast for so many parts.
FEW_PARTS = 2


def split_sampling(plan: Plan, keep: Iterable[str] = ()) -> Plan:
    """`sample` becomes `sample_first`, the search for its thresholds (`sample_tally`), `sample_sums`, `sample_draw`."""
    work = Rewriter(plan, keep)
    for call in [call for call in plan.calls if call.kernel == "sample"]:
        parts = parts_of_row(work.buffers[call.inputs["x"]].shape[1])
        if parts > FEW_PARTS:
            work.replace([call], _in_parts(work, call, parts))
    return work.finished()


def _in_parts(work: Rewriter, call: Call, parts: int) -> list[Call]:
    def buffer(name: str, *shape: int) -> str:
        name = f"{call.outputs['token']}.{name}"
        work.buffers[name] = Buffer(name, shape, "u32", "activation")
        return name

    row = {port: call.inputs[port] for port in ("x", "seen", "options")}
    best = buffer("best", parts)
    first = {"best": best, "bins_after": buffer("bins.0", parts, BIN_WORDS), "cut": buffer("cut.0", 5)}
    calls = [Call("sample_first", row, first, {"parts": parts})]
    given = {**row, "best": best, "bins_before": first["bins_after"], "cut": first["cut"]}
    for number in range(1, ROUNDS):
        after = {
            "bins_after": buffer(f"bins.{number}", parts, BIN_WORDS),
            "cut_after": buffer(f"cut.{number}", 5),
        }
        calls.append(Call("sample_tally", given, after))
        given = {**given, "bins_before": after["bins_after"], "cut": after["cut_after"]}
    found = {"sums": buffer("sums", parts, 2), "lowest": buffer("lowest", 1)}
    calls.append(Call("sample_sums", given, found))
    drawn = {**row, "state": call.inputs["state"], "best": best, **found}
    return [*calls, Call("sample_draw", drawn, call.outputs)]
