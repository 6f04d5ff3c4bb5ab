"""What stands behind a group of products that read the same row: the calls that a fused kernel takes with them."""

from __future__ import annotations

from workbench.plan.plan import Call

from .rewriter import Rewriter


def gate_up_product(work: Rewriter, readers: list[Call]) -> Call | None:
    """The SiLU(gate) * up behind two products, or None where that is not what follows."""
    after = [work.only_reader(call.outputs["y"]) for call in readers]
    if len(after) != 2 or after[0] is None or after[0] is not after[1] or after[0].kernel != "silu_mul":
        return None
    outputs = [call.outputs["y"] for call in readers]
    return after[0] if [after[0].inputs["gate"], after[0].inputs["up"]] == outputs else None


def turned_and_appended(
    work: Rewriter, readers: list[Call]
) -> tuple[tuple[Call, ...], dict[str, str], dict[str, str]] | None:
    """Rotary embeddings and the append behind q, k and v: (the calls, what they read beside, what they write); None
    where that is not what follows."""
    after = [work.only_reader(call.outputs["y"]) for call in readers]
    if None in after or [call.kernel for call in after] != ["rope", "rope", "kv_append"]:
        return None
    turn_q, turn_k, append = after
    turned_k, v = turn_k.outputs["y"], readers[2].outputs["y"]
    expected = {**append.inputs, "k": turned_k, "v": v}
    alike = _all_but_x(turn_q) == _all_but_x(turn_k) and append.inputs["state"] == turn_q.inputs["state"]
    if not alike or append.inputs != expected or work.only_reader(turned_k) is not append:
        return None
    kv = append.inputs["kv"]
    inputs = {"table": turn_q.inputs["table"], "kv": kv, "state": append.inputs["state"]}
    return (turn_q, turn_k, append), inputs, {"q": turn_q.outputs["y"], "kv": kv}


def _all_but_x(call: Call) -> dict[str, str]:
    return {port: name for port, name in call.inputs.items() if port != "x"}
