"""Parts of the browser's modules against their counterparts in Python, without a GPU."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from tests.support.dawn import run_script
from wgsl_kernels.layout import make_seen
from wgsl_kernels.sampling.drawing import random_word
from workbench.formats.bf16 import from_bf16
from workbench.plan.constants import RotaryTable, to_json
from workbench.runtime.sampling import Sampler, SamplingOptions


def call(module: str, name: str, *arguments) -> Any:
    """An export of a module; arrays go there as bytes, and come back as such."""
    given = [
        {"bytes": base64.b64encode(each.tobytes()).decode()} if isinstance(each, np.ndarray) else each
        for each in arguments
    ]
    answer = run_script("call_node.js", {"module": module, "name": name, "arguments": given})
    return base64.b64decode(answer["bytes"]) if isinstance(answer, dict) and "bytes" in answer else answer


def in_camel_case(options: dict) -> dict:
    return {"".join(w.title() if i else w for i, w in enumerate(k.split("_"))): v for k, v in options.items()}


def test_every_half_and_every_bf16_becomes_its_f32():
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = np.frombuffer(call("uploads.js", "toF32", bits, "f16", 0), np.float32)
    assert np.array_equal(halves, bits.view(np.float16).astype(np.float32), equal_nan=True)
    found = np.frombuffer(call("uploads.js", "toF32", bits, "bf16", 0), np.float32)
    assert np.array_equal(found, from_bf16(bits), equal_nan=True)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_an_offset_is_added_in_f32(dtype):
    values = np.random.default_rng(0).standard_normal(1000).astype(dtype.replace("f", "float"))
    found = np.frombuffer(call("uploads.js", "toF32", values, dtype, 1.1), np.float32)
    assert np.array_equal(found, values.astype(np.float32) + np.float32(1.1))


def test_what_is_no_float_is_refused():
    said = call("uploads.js", "toF32", np.zeros(4, np.uint8), "int4", 0)
    assert said["kind"] == "unsupported" and "stored in int4" in said["message"]


def test_rows_are_padded_to_whole_groups():
    rows = np.arange(3 * 72, dtype=np.uint16).reshape(3, 72)
    found = np.frombuffer(call("uploads.js", "padRows", rows, 72, 2), np.uint16).reshape(3, 96)
    assert np.array_equal(found, np.pad(rows, ((0, 0), (0, 24))))


@pytest.mark.parametrize("positions", [40, 400])
def test_tables_of_rotations_are_those_of_the_plan(positions):
    short = tuple(float(np.float32(10000.0 ** -(n / 12))) for n in range(12))
    table = RotaryTable(short, 1.19, tuple(each / 3 for each in short), 100)
    found = np.frombuffer(
        call("uploads.js", "constant", to_json(table), [positions, 24]), np.float32
    ).reshape(positions, 24)
    # both libraries' cosines are right to about an ulp of f64, and rounded to f32
    assert np.abs(found - table.values((positions, 24))).max() <= 2.0**-23


def test_options_are_the_words_that_kernels_read():
    cases = [
        {},
        {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "seed": 123},
        {"temperature": 1e-30, "top_k": 1 << 40, "repetition_penalty": 1.3},
        {"temperature": 1e30, "top_p": 0.0, "seed": (1 << 53) - 1},
        {"temperature": 1e-39, "top_p": 2.0**-33 * 5},  # between two words
    ]
    for case in cases:
        words = np.frombuffer(call("sampling.js", "optionWords", in_camel_case(case)), np.uint32)
        assert np.array_equal(words, SamplingOptions(**case).words().numpy().view(np.uint32)), case


@pytest.mark.parametrize(
    "options, says",
    [
        ({"temperature": -1}, "temperature = -1; allowed: a number >= 0"),
        ({"topK": 1.5}, "top-k = 1.5; allowed: an integer"),
        ({"topP": 1.5}, "top-p = 1.5"),
        ({"seed": -1}, "seed = -1; allowed: an integer from 0"),
        ({"repetitionPenalty": 0}, "repetition penalty = 0"),
    ],
)
def test_wrong_options_are_named(options, says):
    said = call("sampling.js", "optionWords", options)
    assert said["kind"] == "input" and says in said["message"]


def test_seen_tokens_are_bits():
    ids = [0, 31, 32, 131, 131]
    found = np.array(list(np.frombuffer(call("sampling.js", "seenWords", 6, ids), np.uint32)))
    assert np.array_equal(found, make_seen(132, ids))


def test_tokens_drawn_in_a_page_are_those_that_python_draws():
    """Over vocabularies whose weights add up to more than 2^53, equal logits, penalties, and logits of no use."""
    generator = np.random.default_rng(1)
    wide = generator.normal(0, 4, 40_000).astype(np.float32)
    flat = np.full(20_000, 1.5, np.float32)
    coarse = np.round(generator.normal(0, 3, 300)).astype(np.float32)
    tiny = np.array([1e-40, -1e-40, 0, -1e-3, 1e-38], np.float32)
    masked = np.where(np.arange(300) % 3, coarse, np.float32(-3e38))
    rows = [wide, flat, coarse, tiny, masked]
    options = [
        {},
        {"repetition_penalty": 1.7},
        {"temperature": 1.0, "seed": 5},
        {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "seed": 1 << 40},
        {"temperature": 3.0, "top_p": 0.3, "min_p": 0.01, "repetition_penalty": 0.6, "seed": 9},
        {"temperature": 0.9, "top_p": 0.0, "seed": 3},
        {"temperature": 1e30, "seed": 2},
        {"temperature": 1.0, "top_k": 3, "min_p": 0.9, "seed": 4},
    ]
    cases = [
        {"row": row, "position": position, "seen": generator.integers(0, 5, 3).tolist(), "options": each}
        for row in range(len(rows))
        for each in options
        for position in (1, 77, 4096)
    ]
    bad = [np.array([0, np.nan], np.float32), np.array([0, np.inf], np.float32)]
    cases += [
        {"row": len(rows) + n, "position": 1, "seen": [], "options": o} for n in (0, 1) for o in options[:3]
    ]
    given = [{**case, "options": in_camel_case(case["options"])} for case in cases]
    logits = [base64.b64encode(row.tobytes()).decode() for row in (*rows, *bad)]
    found = run_script("draw_node.js", {"logits": logits, "cases": given})
    for case, token, word in zip(cases, found["tokens"], found["words"], strict=True):
        settings = SamplingOptions(**case["options"])
        assert word == random_word(settings.seed, case["position"])
        if case["row"] >= len(rows):
            assert token is None
            continue
        assert token == Sampler(settings)(rows[case["row"]], case["position"], case["seen"]), case
