"""What stands behind a group of products that read the same row: the calls that a fused kernel takes with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workbench.plan.plan import Buffer, Call

from .rewriter import Rewriter


def gate_up_product(work: Rewriter, readers: list[Call]) -> Call | None:
    """The SiLU(gate) * up behind two products, or None where that is not what follows."""
    after = [work.only_reader(call.outputs["y"]) for call in readers]
    if len(after) != 2 or after[0] is None or after[0] is not after[1] or after[0].kernel != "silu_mul":
        return None
    outputs = [call.outputs["y"] for call in readers]
    return after[0] if [after[0].inputs["gate"], after[0].inputs["up"]] == outputs else None


@dataclass(frozen=True)
class Appended:
    """Rotary embeddings and the append behind q, k and v. calls: these, the append last."""

    calls: tuple[Call, ...]
    q: str
    table: str

    def fused(self, work: Rewriter, form: str, begin: dict[str, str], params: Mapping) -> list[Call]:
        """What takes their place and that of norm and products. form: "int4" or "a8_int4", the end of its name;
        begin, params: of norm and products.

        `norm_qkv`; or `norm_qkv_rows` and the append of its rows to an INT8 cache (wgsl_kernels/norm_qkv_rows.py).
        """
        append = self.calls[-1]
        kv = append.inputs["kv"]
        inputs = {**begin, "table": self.table, "state": append.inputs["state"]}
        if append.kernel == "kv_append":
            return [Call(f"norm_qkv_{form}", {**inputs, "kv": kv}, {"q": self.q, "kv": kv}, params)]
        tokens, width = work.buffers[append.inputs["k"]].shape
        rows = Buffer(f"{append.inputs['k']}.rows", (tokens, 2 * width), "f32", "activation")
        work.buffers[rows.name] = rows
        params = {**params, "kv_heads": work.buffers[kv].shape[2]}
        rest = {port: name for port, name in append.inputs.items() if port not in ("k", "v")}
        return [
            Call(f"norm_qkv_rows_{form}", inputs, {"q": self.q, "rows": rows.name}, params),
            Call("kv8_append_rows", {"rows": rows.name, **rest}, append.outputs, append.params),
        ]


def turned_and_appended(work: Rewriter, readers: list[Call]) -> Appended | None:
    """Rotary embeddings and the append behind q, k and v; None where that is not what follows."""
    after = [work.only_reader(call.outputs["y"]) for call in readers]
    if len(after) != 3 or None in after or [call.kernel for call in after[:2]] != ["rope", "rope"]:
        return None
    turn_q, turn_k, append = after
    if append.kernel not in ("kv_append", "kv8_append"):
        return None
    turned_k, v = turn_k.outputs["y"], readers[2].outputs["y"]
    expected = {**append.inputs, "k": turned_k, "v": v}
    alike = _all_but_x(turn_q) == _all_but_x(turn_k) and append.inputs["state"] == turn_q.inputs["state"]
    if not alike or append.inputs != expected or work.only_reader(turned_k) is not append:
        return None
    return Appended((turn_q, turn_k, append), turn_q.outputs["y"], turn_q.inputs["table"])


def _all_but_x(call: Call) -> dict[str, str]:
    return {port: name for port, name in call.inputs.items() if port != "x"}
