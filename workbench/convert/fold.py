"""AWQ's scales folded into a decoder layer (Lin et al. 2023): the same function, with weights that round better.

A linear layer y = W x keeps its outputs if its inputs are divided by s > 0 and its columns multiplied by it:
y = (W diag(s)) (x / s). The division is done by whatever makes x: the weight of the norm before q/k/v and before
gate/up, the rows of v_proj for o_proj (attention only mixes values of a channel; not with grouped queries, where one
row of v_proj feeds several columns), and the rows of up_proj for down_proj.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from workbench.convert.capture import Moments
from workbench.convert.decoder import GROUPS
from workbench.formats.spec import WeightFormat
from workbench.models.llama_config import LlamaConfig

#: Group -> what makes its inputs: a norm, or the rows (and bias) of a linear layer.
SOURCES = {
    "attn.input": "input_layernorm",
    "attn.context": "self_attn.v_proj",
    "mlp.input": "post_attention_layernorm",
    "mlp.hidden": "mlp.up_proj",
}

#: search(matrices of a group [N_i, K], their format, moments of their inputs) -> scales [K] > 0
Search = Callable[[list[torch.Tensor], WeightFormat, Moments], torch.Tensor]


def fold_layer(
    config: LlamaConfig,
    weights: Mapping[str, torch.Tensor],
    formats: Mapping[str, WeightFormat],
    moments: Mapping[str, Moments],
    search: Search,
) -> tuple[dict[str, torch.Tensor], dict[str, Moments], dict[str, str]]:
    """A layer's weights with scales folded in, the moments of its new inputs, and why a group was left as it is.

    weights: float32 by name within the layer; formats: of its matrices. A group is scaled if all its matrices are
    quantized, in one format.
    """
    folded, moved, left = dict(weights), dict(moments), {}
    for group, linears in GROUPS.items():
        names = [f"{linear}.weight" for linear in linears]
        kinds = {formats[name] for name in names}
        if len(kinds) != 1 or not (kind := kinds.pop()).is_quantized:
            left[group] = "its matrices are not all quantized in one format"
            continue
        if group == "attn.context" and config.heads != config.kv_heads:
            left[group] = "grouped queries: a row of v_proj feeds several columns of o_proj"
            continue
        scales = search([folded[name] for name in names], kind, moments[group])
        for name in names:
            folded[name] = folded[name] * scales
        source = SOURCES[group]
        weight = folded[f"{source}.weight"]
        folded[f"{source}.weight"] = weight / (scales if weight.ndim == 1 else scales[:, None])
        if f"{source}.bias" in folded:
            folded[f"{source}.bias"] = folded[f"{source}.bias"] / scales
        moved[group] = moments[group].divided(scales)
    return folded, moved, left
