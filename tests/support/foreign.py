"""Writers of others' quantized layouts, independent of the project's readers: values go in one by one, as the layouts
are published, and bits are put together in Python's integers. Each gives the weights that a reader must find.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.models.checkpoints import CONFIG, random_state, write_checkpoint

#: Sizes that all layouts take: rows and columns of every matrix are multiples of 32.
SIZES: dict[str, Any] = CONFIG | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "head_dim": 16,
    "tie_word_embeddings": True,
}
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def stream(values: np.ndarray, bits: int) -> np.ndarray:
    """int32 words of one run of values, value i at bit `bits * i` of an endless integer."""
    whole = sum(int(value) << bits * at for at, value in enumerate(values))
    words = -(-len(values) * bits // 32)
    return np.frombuffer(whole.to_bytes(4 * words, "little"), "<i4")


def along_rows(q: np.ndarray, bits: int) -> np.ndarray:
    return np.stack([stream(row, bits) for row in q])


def along_columns(q: np.ndarray, bits: int) -> np.ndarray:
    return np.stack([stream(column, bits) for column in q.T], axis=1)


class Rounded:
    """A matrix rounded to nearest in groups of columns: q, scales f16, zeros; and its weights in f32.

    order: the group of each column, for act-order; None for runs.
    """

    def __init__(
        self, w: np.ndarray, bits: int, group: int, symmetric: bool, order: np.ndarray | None = None
    ):
        rows, columns = w.shape
        self.bits, self.order = bits, np.arange(columns) // group if order is None else order
        groups = int(self.order.max()) + 1
        top, half = 2**bits - 1, 2 ** (bits - 1)
        self.scales, self.zeros = np.zeros((rows, groups), np.float16), np.zeros((rows, groups), int)
        for each in range(groups):
            part = w[:, self.order == each]
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            scale = np.maximum(-low, high) / half if symmetric else (high - low) / top
            self.scales[:, each] = scale
            zero = np.rint(-low / self.scales[:, each].astype(float))
            self.zeros[:, each] = half if symmetric else np.clip(zero, 0, top)
        scales, zeros = (plane[:, self.order].astype(np.float32) for plane in (self.scales, self.zeros))
        self.q = np.clip(np.rint(w / scales) + zeros, 0, top).astype(int)
        self.weights = scales * (self.q.astype(np.float32) - zeros)


def gptq(m: Rounded, version: int = 1, g_idx: bool = True) -> dict[str, np.ndarray]:
    stored = (m.zeros - 1) % 2**m.bits if version == 1 else m.zeros
    parts = {
        "qweight": along_columns(m.q.T, m.bits),
        "qzeros": along_rows(stored.T, m.bits),
        "scales": m.scales.T,
        "g_idx": m.order.astype(np.int32),
    }
    return parts if g_idx else {name: part for name, part in parts.items() if name != "g_idx"}


def awq(m: Rounded) -> dict[str, np.ndarray]:
    def packed(values: np.ndarray) -> np.ndarray:
        """[n, N] -> [n, N / 8]: rows 0, 2, 4, 6, 1, 3, 5, 7 of eight from the lowest nibble up."""
        eights = values.reshape(len(values), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        return along_rows(eights.reshape(len(values), -1), 4)

    return {"qweight": packed(m.q.T), "qzeros": packed(m.zeros.T), "scales": m.scales.T}


def compressed(m: Rounded, symmetric: bool, g_idx: bool = False) -> dict[str, np.ndarray]:
    parts = {
        "weight_packed": along_rows(m.q, m.bits),
        "weight_scale": m.scales,
        "weight_shape": np.array(m.q.shape),
    }
    if not symmetric:
        parts["weight_zero_point"] = along_columns(m.zeros, m.bits)
    if g_idx:
        parts["weight_g_idx"] = m.order.astype(np.int32)
    return parts


def compressed_int8(m: Rounded, symmetric: bool) -> dict[str, np.ndarray]:
    parts = {"weight": (m.q - 128).astype(np.int8), "weight_scale": m.scales}
    return parts if symmetric else parts | {"weight_zero_point": (m.zeros - 128).astype(np.int8)}


def nf4(w: np.ndarray, block: int, nested: int | None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tensors of a matrix in bitsandbytes' nf4, and its weights. nested: block of absmax in 8 bits."""
    blocks = w.reshape(-1, block)
    absmax = np.abs(blocks).max(1).astype(np.float32)
    state: dict[str, Any] = {
        "quant_type": "nf4",
        "blocksize": block,
        "dtype": "float16",
        "shape": list(w.shape),
    }
    parts: dict[str, np.ndarray] = {"absmax": absmax, "quant_map": np.array(NF4, np.float32)}
    if nested is not None:
        offset, code = float(absmax.mean()), np.linspace(-1, 1, 256, dtype=np.float32)
        groups = np.arange(len(absmax)) // nested
        own = np.array(
            [np.abs(absmax[groups == g] - offset).max() for g in range(groups.max() + 1)], np.float32
        )
        nearest = np.abs((absmax - offset)[:, None] / own[groups][:, None] - code).argmin(1)
        absmax = (code[nearest] * own[groups] + np.float32(offset)).astype(np.float32)
        parts |= {"absmax": nearest.astype(np.uint8), "nested_absmax": own, "nested_quant_map": code}
        state |= {"nested_blocksize": nested, "nested_dtype": "float32", "nested_offset": offset}
    q = np.abs(blocks[..., None] / absmax[:, None, None] - np.array(NF4)).argmin(-1)
    weights = np.array(NF4, np.float32)[q] * absmax[:, None]
    flat = q.reshape(-1)
    tensors = {"weight": (flat[0::2] * 16 + flat[1::2]).astype(np.uint8)[:, None]}
    tensors |= {f"weight.{name}": part for name, part in parts.items()}
    tensors["weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return tensors, weights.reshape(w.shape)


def bnb_int8(w: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    absmax = np.abs(w).max(1).astype(np.float32)
    q = np.rint(w * 127 / absmax[:, None]).astype(np.int8)
    parts = {"weight": q, "SCB": absmax, "weight_format": np.zeros((), np.uint8)}
    return parts, q * (absmax * np.float32(1 / 127))[:, None]


def mlx(w: np.ndarray, bits: int, group: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tensors of a matrix in MLX's layout, and its weights; scales of odd rows are negative."""
    groups = w.reshape(len(w), -1, group)
    low, high = groups.min(2), groups.max(2)
    odd = np.arange(len(w))[:, None] % 2 == 1
    scales = (np.where(odd, low - high, high - low) / (2**bits - 1)).astype(np.float16)
    biases = np.where(odd, high, low).astype(np.float16)
    s, b = (np.repeat(each.astype(np.float32), group, 1) for each in (scales, biases))
    q = np.clip(np.rint((w - b) / s), 0, 2**bits - 1).astype(int)
    parts = {"weight": along_rows(q, bits).view("<u4"), "scales": scales, "biases": biases}
    return parts, s * q.astype(np.float32) + b


def hqq(
    w: np.ndarray, bits: int, group: int, axis: int = 1, whole: bool = False, dtype: type = np.float16
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tensors of a matrix in HQQ's layout, and its weights; whole: zero-points are."""
    lines = w.reshape(-1, group) if axis == 1 else w.reshape(group, -1)
    low, high = lines.min(axis, keepdims=True), lines.max(axis, keepdims=True)
    scale = ((high - low) / (2**bits - 1)).astype(dtype)
    zero = (-low / scale.astype(float)).astype(dtype)
    zero = np.rint(zero).clip(0, 2**bits - 1) if whole else zero
    s, z = scale.astype(np.float32), zero.astype(np.float32)
    q = np.rint(lines / s + z).clip(0, 2**bits - 1).astype(int)
    each, room = {8: (1, 8), 5: (1, 8), 4: (2, 4), 3: (10, 3), 2: (4, 2), 1: (8, 1)}[bits]
    step = -(-len(q) // each)
    packed = np.zeros((step, q.shape[1]), np.int64)
    for line, values in enumerate(q):
        packed[line % step] += values << room * (each - 1 - line // step)
    numbers = {"nbits": bits, "group_size": group, "axis": axis}
    parts = {
        "W_q": packed.astype(np.int32 if bits == 3 else np.uint8),
        "scale": scale,
        "zero": zero,
        "shape": np.array(w.shape),
        **{name: np.array(value, np.int32) for name, value in numbers.items()},
        "view_as_float": np.array(0, np.uint8),
        "packing": np.frombuffer(b"4bit_u8", np.uint8),
    }
    return parts, ((q.astype(np.float32) - z) * s).reshape(w.shape)


def _gptq_config(bits: int, group: int, symmetric: bool, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric, **more}


def _scheme(form: str, bits: int, group: int | None, symmetric: bool) -> dict[str, Any]:
    how = {"num_bits": bits, "type": "int", "symmetric": symmetric, "group_size": group}
    weights = how | {"strategy": "group" if group else "channel"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups}


def _shuffled(columns: int, group: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(columns) // group)


def packed(layout: str, w: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tensors of a matrix in a layout of `LAYOUTS`, by what follows the module's name, and its weights in f32."""
    if layout.startswith("bnb-nf4"):
        return nf4(w, 32, 8 if layout == "bnb-nf4-nested" else None)
    if layout == "bnb-int8":
        return bnb_int8(w)
    if layout.startswith("hqq"):
        how = LAYOUTS[layout]
        return hqq(
            w, how["bits"], how["group"], how.get("axis", 1), how["symmetric"], how.get("dtype", np.float16)
        )
    if layout.startswith("mlx"):
        return mlx(w, LAYOUTS[layout]["bits"], LAYOUTS[layout]["group"])
    how = LAYOUTS[layout]
    group = how.get("group") or w.shape[1]
    order = _shuffled(w.shape[1], group) if "act-order" in layout else None
    m = Rounded(w, how["bits"], group, how["symmetric"], order)
    if how["config"]["quant_method"] in ("gptq", "auto-round") and "awq" not in layout:
        return gptq(m, how.get("version", 1), g_idx="auto-round" not in layout), m.weights
    if "awq" in layout:
        return awq(m), m.weights
    if layout.startswith("int8"):
        return compressed_int8(m, how["symmetric"]), m.weights
    return compressed(m, how["symmetric"], order is not None), m.weights


def _entry(
    bits: int, group: int | None, symmetric: bool, config: dict[str, Any], **more: Any
) -> dict[str, Any]:
    return {"bits": bits, "group": group, "symmetric": symmetric, "config": config, **more}


#: Layout -> how it is written, its quantization_config, and `format`: what the matrices become (None: f32).
LAYOUTS: dict[str, dict[str, Any]] = {
    "gptq-4": _entry(4, 32, False, _gptq_config(4, 32, False, checkpoint_format="gptq"), format="int4/32"),
    "gptq-4-sym": _entry(4, 32, True, _gptq_config(4, 32, True), format="int4/32/sym"),
    "gptq-v2-sym-called-v1": _entry(
        4, 32, True, _gptq_config(4, 32, True, checkpoint_format="gptq"), version=2, format="int4/32/sym"
    ),
    "gptq-v2-8": _entry(
        8, 32, False, _gptq_config(8, 32, False, checkpoint_format="gptq_v2"), version=2, format="int8/32"
    ),
    "gptq-3-rows": _entry(3, None, False, _gptq_config(3, -1, False), format="int4/channel"),
    "gptq-2": _entry(2, 32, False, _gptq_config(2, 32, False), format="int2/32"),
    "gptq-act-order": _entry(4, 32, False, _gptq_config(4, 32, False, desc_act=True), format="int4/32"),
    "gptq-16": _entry(4, 16, True, _gptq_config(4, 16, True), format=None),
    "auto-round-gptq": _entry(
        4, 32, False, {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False,
                       "packing_format": "auto_round:auto_gptq"}, format="int4/32"),
    "auto-round-awq": _entry(
        4, 32, True, {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": True,
                      "packing_format": "auto_round:auto_awq"}, format="int4/32/sym"),
    "awq": _entry(4, 32, False, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"},
                  format="int4/32"),
    "packed-4": _entry(4, 32, True, _scheme("pack-quantized", 4, 32, True), format="int4/32/sym"),
    "packed-4-zeros": _entry(4, 32, False, _scheme("pack-quantized", 4, 32, False), format="int4/32"),
    "packed-3-act-order": _entry(3, 32, True, _scheme("pack-quantized", 3, 32, True), format="int4/32/sym"),
    "packed-8-rows": _entry(8, None, True, _scheme("pack-quantized", 8, None, True), format="int8/channel/sym"),
    "int8": _entry(8, None, True, _scheme("int-quantized", 8, None, True), format="int8/channel/sym"),
    "int8-zeros": _entry(8, 32, False, _scheme("int-quantized", 8, 32, False), format="int8/32"),
    "bnb-nf4": _entry(4, 32, True, {"quant_method": "bitsandbytes", "load_in_4bit": True,
                                    "bnb_4bit_quant_type": "nf4"}, format=None),
    "bnb-nf4-nested": _entry(4, 32, True, {"quant_method": "bitsandbytes", "load_in_4bit": True,
                                           "bnb_4bit_quant_type": "nf4"}, format=None),
    "bnb-int8": _entry(8, None, True, {"load_in_8bit": True}, format="int8/channel/sym/f32"),
    "mlx-4": _entry(4, 32, False, {"group_size": 32, "bits": 4}, format="int4/32/offset"),
    "mlx-3": _entry(3, 32, False, {"group_size": 64, "bits": 4, "mode": "affine"} | {
        f"model.layers.{layer}.{part}_proj": {"group_size": 32, "bits": 3} for layer in (0, 1) for part in (
            "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")},
        format="int4/32/offset"),
    "hqq-4": _entry(4, 32, False, {"quant_method": "hqq"}, format="int4/32/offset/f32"),
    "hqq-4-whole": _entry(4, 32, True, {"quant_method": "hqq"}, format="int4/32"),
    "hqq-8": _entry(8, 32, True, {"quant_method": "hqq"}, format="int8/32"),
    "hqq-3": _entry(3, 32, False, {"quant_method": "hqq"}, format="int4/32/offset/f32"),
    "hqq-2": _entry(2, 32, False, {"quant_method": "hqq"}, format="int2/32/offset/f32"),
    "hqq-4-axis-0": _entry(4, 32, False, {"quant_method": "hqq"}, axis=0, format=None),
    "hqq-4-f32": _entry(4, 32, False, {"quant_method": "hqq"}, dtype=np.float32, format=None),
    "hqq-1-across": _entry(1, 128, False, {"quant_method": "hqq"}, format=None),
    "mlx-8": _entry(8, 32, False, {"group_size": 32, "bits": 8}, format="int8/32/offset"),
}  # fmt: skip


def write_quantized(
    folder: Path,
    layout: str,
    state: dict[str, torch.Tensor] | None = None,
    config: dict[str, Any] | None = None,
    tokenizer: Path | None = None,
) -> dict[str, np.ndarray]:
    """A checkpoint whose linear layers are in a layout; returns every tensor's weights in f32, by name.

    state, config: of a checkpoint of floats; by default random ones of `SIZES`.
    """
    config = config or SIZES
    state = state or random_state(SIZES)
    tensors, weights = {}, {}
    for name, value in state.items():
        values = value.float().numpy()
        if not name.endswith(("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight")):
            tensors[name] = value.half()
            weights[name] = tensors[name].float().numpy()
            continue
        parts, weights[name] = packed(layout, values)
        module = name.removesuffix(".weight")
        tensors |= {
            f"{module}.{part}": torch.from_numpy(np.array(values, order="C"))
            for part, values in parts.items()
        }
    entry = LAYOUTS[layout]["config"]
    more = {"quantization": entry} if layout.startswith("mlx") else {}
    write_checkpoint(folder, tensors, config | more | {"quantization_config": entry}, tokenizer=tokenizer)
    return weights
