"""AWQ's scales folded into a decoder layer (Lin et al. 2023): the same function, with weights that round better.

A linear layer y = W x keeps its outputs if its inputs are divided by s > 0 and its columns multiplied by it:
y = (W diag(s)) (x / s). The division is done by whatever makes x: the weight of a norm, the rows of v_proj for o_proj
(attention only mixes values of a channel; not with grouped queries, where one row of v_proj feeds several columns), the
rows of up_proj for down_proj. What that is follows from the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from workbench.convert.capture import Moments
from workbench.formats.spec import WeightFormat
from workbench.known import known
from workbench.plan.inputs import read_together, readers, writer
from workbench.plan.plan import Buffer, Call, Plan

#: Gated units y = act(gate) * up: y scales with up.
GATED = ("silu_mul", "gelu_mul")

#: search(matrices of a group [N_i, K], their format, moments of their inputs) -> scales [K] > 0
Search = Callable[[list[torch.Tensor], WeightFormat, Moments], torch.Tensor]


def fold_layer(
    plan: Plan,
    weights: Mapping[str, torch.Tensor],
    formats: Mapping[str, WeightFormat],
    moments: Mapping[str, Moments],
    search: Search,
) -> tuple[dict[str, torch.Tensor], dict[str, Moments], dict[str, str]]:
    """A layer's weights with scales folded in, the moments of its new inputs, and why an input was left as it is.

    weights: float32 by name in the checkpoint, of one layer; formats: of its matrices; moments: by the name of the
    input, of the layer's inputs alone. An input is scaled if all matrices that read it are quantized, in one format.
    """
    folded, moved, left = dict(weights), dict(moments), {}
    together = read_together(plan)
    for read in moments:
        names = [plan.buffers[matrix].tensor for matrix in together[read]]
        kinds = {formats[name] for name in names}
        if len(kinds) != 1 or not (kind := kinds.pop()).is_quantized:
            left[read] = "its matrices are not all quantized in one format"
            continue
        sources = scaled_by(plan, read)
        if isinstance(sources, str):
            left[read] = sources
            continue
        scales = search([folded[name] for name in names], kind, moments[read])
        for name in names:
            folded[name] = folded[name] * scales
        for source in sources:
            weight, offset = folded[source.tensor], source.offset
            divided = (weight + offset) / (scales if weight.ndim == 1 else scales[:, None])
            folded[source.tensor] = divided - offset
        moved[read] = moments[read].divided(scales)
    return folded, moved, left


def scaled_by(plan: Plan, read: str) -> list[Buffer] | str:
    """Weights whose rows scale an activation, channel by channel; in words, why there are none."""
    if any(call.op != "linear" for call in readers(plan, read)):
        return "something else than linear layers reads their input too"
    call = writer(plan, read)
    if call is not None and call.op == "rms_norm":
        return [plan.buffers[call.inputs["weight"]]]
    if call is not None and call.op in GATED:
        return _rows_of(plan, writer(plan, call.inputs["up"]))
    if call is not None and call.op == "attention":
        append = known(writer(plan, call.inputs["kv"]))
        value = append.inputs["v"]
        if plan.buffers[value].shape != plan.buffers[read].shape:
            return "grouped queries: a row of v_proj feeds several columns of o_proj"
        return _rows_of(plan, writer(plan, value))
    return "nothing in front of them can take scales"


def _rows_of(plan: Plan, call: Call | None) -> list[Buffer] | str:
    """Weight and bias of a linear layer."""
    if call is None or call.op != "linear":
        return "nothing in front of them can take scales"
    return [plan.buffers[call.inputs[port]] for port in ("weight", "bias") if port in call.inputs]
