"""Plans as data: built from a configuration, printed, stored as JSON, counted; and what is refused."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from workbench.dtypes import ELEMENT_BYTES
from workbench.errors import UnsupportedModelError
from workbench.formats.spec import WeightFormat
from workbench.models.endings import HEADS
from workbench.models.families import architecture_of
from workbench.plan.bind import bind
from workbench.plan.builder import PlanBuilder
from workbench.plan.count import buffer_bytes, kind_bytes, step_cost
from workbench.plan.inputs import read_together, readers, writer
from workbench.plan.plan import Plan, PlanError, step_sizes
from workbench.plan.stages import stages

CONFIG = {
    "model_type": "llama",
    "vocab_size": 131,
    "hidden_size": 72,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
SIZES = step_sizes(5, 64, steps=16)
FORMATS = (
    WeightFormat("f32"),
    WeightFormat("bf16"),
    WeightFormat("int8", "channel"),
    WeightFormat("int4"),
    WeightFormat("int4", "tensor", symmetric=True, scale_dtype="f32"),
    WeightFormat("int2", block_size=64, zero_frac_bits=5),
    WeightFormat("int4", block_size=32, offset=True),
)


def describe_as(fmt: WeightFormat, **changes):
    """A checkpoint of CONFIG whose matrices are all of one format; `changes`: other shapes by tensor name."""
    hidden, ffn, width, kv_width, vocab = 72, 172, 144, 48, 131
    shapes = {
        "embed_tokens.weight": (vocab, hidden),
        "lm_head.weight": (vocab, hidden),
        "q_proj.weight": (width, hidden),
        "q_proj.bias": (width,),
        "k_proj.weight": (kv_width, hidden),
        "k_proj.bias": (kv_width,),
        "v_proj.weight": (kv_width, hidden),
        "v_proj.bias": (kv_width,),
        "o_proj.weight": (hidden, width),
        "o_proj.bias": (hidden,),
        "gate_proj.weight": (ffn, hidden),
        "gate_proj.bias": (ffn,),
        "up_proj.weight": (ffn, hidden),
        "up_proj.bias": (ffn,),
        "down_proj.weight": (hidden, ffn),
        "down_proj.bias": (hidden,),
        "norm.weight": (hidden,),
        "layernorm.weight": (hidden,),
    }

    def describe(name: str):
        if name in changes:
            return changes[name], fmt
        shape = next(shape for end, shape in shapes.items() if name.endswith(end))
        return shape, fmt if len(shape) == 2 else WeightFormat("f32")

    return describe


def plan_of(fmt=FORMATS[0], head="all", activations="f32", cache=None, **config) -> Plan:
    return architecture_of({**CONFIG, **config}).build(
        describe_as(fmt),
        head=head,
        activations=activations,
        cache=cache,
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_json_round_trip(fmt, head):
    plan = plan_of(fmt, head, attention_bias=True, activations="f16")
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert str(again) == str(plan)
    again.check()


def test_printing_reads_like_the_calls():
    lines = str(plan_of(FORMATS[3], "score")).splitlines()
    assert len(lines) == 1 + 2 * 16 + 4
    assert lines[0] == "embedding(ids=ids, weight=embedding) -> embedded"
    norm = "model.layers.0.input_layernorm.weight"
    assert lines[1] == f"rms_norm(x=embedded, weight={norm}, eps=1e-05) -> layers.0.attn.input"
    assert "attention(q=layers.1.attn.q_rotated, kv=layers.1.kv, state=state, scale=" in str(lines)
    assert lines[-1] == "target_log_likelihood(x=logits, targets=targets) -> log_likelihood"


def test_tied_embeddings_are_one_matrix():
    tied, untied = plan_of(tie_word_embeddings=True), plan_of()
    assert "lm_head" in untied.weights and "lm_head" not in tied.weights
    assert tied.calls[-1].inputs["weight"] == "embedding"


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_bytes_a_token_are_the_bytes_of_the_planes(fmt, tied):
    """Every weight byte is read once a token; of an embedding that is no head, one row, which does not count."""
    plan = plan_of(fmt, "last", tie_word_embeddings=tied)
    expected = 0
    for weight in plan.weights.values():
        rows, columns = weight.shape
        if weight.name == "embedding" and not tied:
            continue
        if not fmt.is_quantized:
            expected += rows * -(-columns // 32) * 32 * ELEMENT_BYTES[fmt.dtype]
            continue
        scales = {"tensor": 1, "channel": rows}.get(fmt.granularity, rows * fmt.blocks(columns))
        expected += rows * fmt.padded_columns(columns) * fmt.bits // 8
        beside = ELEMENT_BYTES[fmt.scale_dtype] if fmt.offset else 0 if fmt.symmetric else 1
        expected += scales * (ELEMENT_BYTES[fmt.scale_dtype] + beside)
    expected += 4 * 72 * (2 * 2 + 1)  # norms
    assert step_cost(plan, {**SIZES, "tokens": 1}).weight_bytes == expected


def test_work_of_a_step():
    plan = plan_of(head="all")
    cost = step_cost(plan, SIZES)
    assert cost.dispatches == len(plan.calls)
    matrices = sum(w.shape[0] * w.shape[1] for w in plan.weights.values() if w.name != "embedding")
    attention = 2 * 4 * SIZES["tokens"] * 144 * SIZES["capacity"]
    assert (
        2 * SIZES["tokens"] * matrices + attention
        < cost.flops
        < 1.05 * (2 * SIZES["tokens"] * matrices + attention)
    )
    assert cost.bytes > cost.weight_bytes
    assert step_cost(plan, {**SIZES, "tokens": 10}).flops == pytest.approx(2 * cost.flops)


def test_bytes_by_kind():
    plan = plan_of(activations="f16")
    assert kind_bytes(plan, "cache", SIZES) == 2 * 2 * 2 * 64 * 24 * 2  # layers, k and v, heads, positions
    assert buffer_bytes(plan.buffers["logits"], SIZES) == 5 * 131 * 4
    assert buffer_bytes(plan.buffers["layers.0.mlp.hidden"], SIZES) == 5 * 172 * 2
    assert buffer_bytes(plan.buffers["layers.0.mlp.gate"], SIZES) == 5 * 172 * 4


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cache", [None, "int8"])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_every_call_fits_its_kernel(fmt, cache, head):
    """Ports exist and are all bound, shapes agree, parameters are known, element types are taken."""
    sizes = {**SIZES, "tokens": 1} if head in ("greedy", "draw", "told") else SIZES
    plan = plan_of(fmt, head, cache=cache, attention_bias=True, mlp_bias=True)
    for call in plan.calls:
        bound = bind(plan, call, sizes)
        kernel = bound.kernel
        kernel.complete(bound.sizes())
        assert set(bound.params) <= set(kernel.params)
        assert {kernel.writes[port].of or port for port in kernel.writes} == set(call.outputs)
        assert {n for n, port in kernel.ports.items() if not port.optional} <= set(bound.types)
        for port, dtype in bound.types.items():
            wanted = kernel.ports[port].dtype
            assert dtype in {"float": ("f32", "f16"), "scale": ("f32", "f16")}.get(wanted, (wanted,))


def test_f16_activations_leave_the_residual_stream_f32():
    plan = plan_of(activations="f16")
    halves = {b.name.split(".", 2)[-1] for b in plan.of_kind("activation") if b.dtype == "f16"}
    assert halves == {
        "attn.input",
        "attn.q_rotated",
        "attn.k_rotated",
        "attn.context",
        "mlp.input",
        "mlp.hidden",
        "final",
    }
    assert {b.dtype for b in plan.of_kind("cache")} == {"f16"}


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["f32", "f16", "int8"])
def test_the_cache_has_a_type_of_its_own(activations):
    act = "f16" if activations == "f16" else "f32"
    cases = {
        None: ({act}, act, 2 * 24 * ELEMENT_BYTES[act]),
        "f32": ({"f32"}, "f32", 2 * 24 * 4),
        "f16": ({"f16"}, "f16", 2 * 24 * 2),
        "int8": ({"kv8"}, "f32", 2 * (32 + 4)),  # heads of 24 padded to 32 bytes, and a scale
    }
    for cache, (stored, keys, head_bytes) in cases.items():
        plan = plan_of(FORMATS[3], activations=activations, cache=cache)
        assert {b.dtype for b in plan.of_kind("cache")} == stored
        assert plan.buffers["layers.0.attn.k_rotated"].dtype == keys  # rounded once, by what stores them
        assert plan.buffers["layers.0.attn.q_rotated"].dtype == act
        layers, kv_heads = 2, 2
        assert kind_bytes(plan, "cache", SIZES) == layers * kv_heads * SIZES["capacity"] * head_bytes
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
        cost = step_cost(plan, {**SIZES, "tokens": 1})
        assert cost.bytes > kind_bytes(plan, "cache", SIZES)


def test_a_read_before_the_write_is_refused():
    plan = plan_of()
    with pytest.raises(PlanError, match="before it is written"):
        replace(plan, calls=plan.calls[1:]).check()
    with pytest.raises(PlanError, match="result 'logits' is never written"):
        replace(plan, calls=plan.calls[:-1]).check()


def test_builder_refusals():
    builder = PlanBuilder()
    builder.buffer("x", (1,), "f32", "activation")
    with pytest.raises(PlanError, match="declared twice"):
        builder.buffer("x", (2,), "f32", "activation")
    with pytest.raises(PlanError, match="'y', which is not declared"):
        builder.call("add", {"a": "x", "b": "y"}, {"y": "x"})


def _without(key):
    return lambda data: data.pop(key)


@pytest.mark.parametrize(
    "damage",
    [
        _without("buffers"),
        _without("version"),
        _without("results"),
        lambda data: data.update(version=1),
        lambda data: data.update(calls=None),
        lambda data: data["calls"].pop(0),
        lambda data: data["calls"][3].pop("params"),
        lambda data: data["calls"][3].update(inputs=7),
        lambda data: data["calls"][3]["inputs"].update(x="nothing"),
        lambda data: data["buffers"][0].update(kind="secret"),
        lambda data: data["buffers"].pop(),
        lambda data: next(b for b in data["buffers"] if "tensors" in b)["type"].update(dtype="int5"),
        lambda data: data["buffers"][0].update(type="a8/32/3"),
        lambda data: data["buffers"][0].update(type="f64"),
        lambda data: data["results"].append("nothing"),
    ],
)
def test_damaged_json_is_refused(damage):
    data = json.loads(json.dumps(plan_of(FORMATS[3]).to_json()))
    damage(data)
    with pytest.raises(PlanError):
        Plan.from_json(data)


@pytest.mark.parametrize("data", [None, [], 3, "plan", {}])
def test_what_is_no_plan_is_refused(data):
    with pytest.raises(PlanError):
        Plan.from_json(data)


def test_names_and_near_names():
    plan = plan_of()
    assert plan.check_names(["logits", "layers.1.mlp.out"]) == ("logits", "layers.1.mlp.out")
    with pytest.raises(PlanError, match=r"no activation 'layer\.1\.mlp\.out'; near it: layers\.1\.mlp\.out"):
        plan.check_names(["logits", "layer.1.mlp.out"])
    with pytest.raises(PlanError, match="no activation 'rope_table'"):
        plan.check_names(["rope_table"])


@pytest.mark.parametrize(
    "name, shape",
    [
        ("model.layers.1.mlp.up_proj.weight", (172, 71)),
        ("model.norm.weight", (71,)),
        ("lm_head.weight", (130, 72)),
    ],
)
def test_tensors_of_other_shapes_are_refused(name, shape):
    with pytest.raises(UnsupportedModelError, match=f"{name} has shape .*{shape[0]}.* asks for"):
        architecture_of(CONFIG).build(describe_as(FORMATS[0], **{name: shape}))


def test_heads_and_activations_are_checked():
    with pytest.raises(ValueError, match="head is one of all, last, score, greedy"):
        plan_of(head="first")
    with pytest.raises(ValueError, match=r"activations are .*f32.*f16"):
        plan_of(activations="bf16")
    with pytest.raises(ValueError, match=r"the cache is .*f32.*int8"):
        plan_of(cache="int4")


def test_what_is_read_off_a_plan_takes_as_long_as_it_has_layers():
    """Of 1,024 of them, as many as are allowed: seconds where layers are looked at together, minutes where each looks
    through all (by CPU time, since others run beside it)."""
    began = time.process_time()
    plan = plan_of(num_hidden_layers=1024)
    together, cut = read_together(plan), stages(plan)
    assert len(cut) == 1024 + 2 and len(together) == 4 * 1024 + 2
    for stage, layer in zip(cut[1:-1], range(1024), strict=True):
        x = f"layers.{layer}.attn.input"
        assert [call.op for call in readers(plan, x)] == ["linear"] * 3
        assert writer(plan, x) in stage.calls and cut[layer].writes == stage.reads
    assert time.process_time() - began < 8
