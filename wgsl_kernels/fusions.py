"""The rules by which plans are rewritten, in the order in which they are tried."""

from __future__ import annotations

from .attention.attention_reduce_a8 import reduce_in_int8
from .attention.attention_split import SPLIT_ATTENTION
from .cache.rope_append import STACKED_QKV, STACKED_QKV_NORM
from .composition import Rule
from .experts.expert_sum import EXPERT_SUM
from .experts.fused import expert_down, expert_gate_up
from .experts.sorted import EXPERT_SORTED
from .linear.gate_up import gate_up, gate_up_gelu
from .linear.linear import LINEAR_SUM
from .linear.norm_linear import norm_gate_up, norm_gate_up_gelu, norm_linear
from .linear.norm_linear_a8 import (
    norm_gate_up_a8,
    norm_gate_up_gelu_a8,
    norm_linear_a8,
    norm_qkv_a8,
)
from .linear.norm_qkv import norm_qkv
from .linear.norm_qkv_rows import QKV_ROWS
from .linear.shared_norm import SHARED_NORM
from .logits.argmax_parts import ARGMAX_PARTS
from .logits.norm_argmax import ARGMAX
from .logits.top_k import TOP_K
from .lora.fused import ADAPTED, ADDED, LINEAR_ADAPTED
from .norm.head_norm import head_norm_rope
from .quantized.gated_mul_a8 import GATED_IN_INT8, SIDE_BY_SIDE
from .quantized.rms_norm_a8 import norm_in_int8
from .sampling.sample import SAMPLE_IN_PARTS
from .tokens.rows import ONLY_ROW

#: Of the rules those that put something into one product each, which rules over several of them expect.
SINGLE_PRODUCTS: tuple[Rule, ...] = (LINEAR_ADAPTED,)
RULES: tuple[Rule, ...] = (
    ONLY_ROW,
    *ADDED,
    LINEAR_SUM,
    EXPERT_SUM,
    EXPERT_SORTED,
    expert_gate_up,
    expert_down,
    *ADAPTED,
    STACKED_QKV_NORM,
    head_norm_rope,
    norm_qkv,
    norm_gate_up,
    norm_gate_up_gelu,
    SPLIT_ATTENTION,
    norm_qkv_a8,
    norm_gate_up_a8,
    norm_gate_up_gelu_a8,
    *SHARED_NORM,
    *QKV_ROWS,
    *STACKED_QKV,
    gate_up,
    gate_up_gelu,
    norm_linear,
    norm_linear_a8,
    norm_in_int8,
    reduce_in_int8,
    *SIDE_BY_SIDE,
    *GATED_IN_INT8,
    *ARGMAX,
    ARGMAX_PARTS,
    *TOP_K,
    SAMPLE_IN_PARTS,
)
