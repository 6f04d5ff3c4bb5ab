"""Small models with everything a manifest can say, for the tests of writer and reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, quantized_tensor
from workbench.formats.writer import ModelWriter

CONFIG = {
    "model_type": "llama",
    "hidden_size": 96,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-05,
    "names": ["é", None],
}
FORMATS = {
    "block": WeightFormat("int4", block_size=64),
    "block.int8": WeightFormat("int8", block_size=32, scale_dtype="f32"),
    "block.int2": WeightFormat("int2", block_size=32, zero_frac_bits=5, order="high-first"),
    "symmetric": WeightFormat("int4", block_size=32, symmetric=True, order="high-first"),
    "channel": WeightFormat("int8", "channel", symmetric=True),
    "whole": WeightFormat("int4", "tensor"),
    "offset": WeightFormat("int4", block_size=32, offset=True),
}


#: Tensors of different kinds: enough where a manifest alone is looked at.
SMALL = ("block", "symmetric", "norm.bf16", "scalar")


def random_tensor(name: str, format: WeightFormat, rows: int, columns: int, seed: int = 0) -> WeightTensor:
    rng = np.random.default_rng(seed)
    q = rng.integers(*format.q_range, (rows, format.padded_columns(columns)), endpoint=True)
    shape = format.scale_shape(rows, columns)
    scales = rng.uniform(0.01, 2, shape).astype(np.float16)
    return quantized_tensor(name, (rows, columns), format, q, scales, random_zeros(rng, format, shape))


def random_zeros(rng: np.random.Generator, format: WeightFormat, shape: tuple[int, int]) -> np.ndarray | None:
    """What stands beside scales of that shape: zero-points, offsets, or nothing."""
    if format.offset:
        return rng.normal(size=shape).astype(np.float16)
    return None if format.symmetric else rng.integers(*format.zero_range, shape, endpoint=True)


def tensors() -> list[WeightTensor]:
    rng = np.random.default_rng(7)
    result = [
        random_tensor(name, format, 50, 90, seed) for seed, (name, format) in enumerate(FORMATS.items())
    ]
    for dtype in ("f32", "f16", "bf16"):
        result.append(float_tensor(f"norm.{dtype}", rng.standard_normal(33).astype(np.float32), dtype))
    result.append(float_tensor("embedding", rng.standard_normal((70, 24)).astype(np.float32), "f16"))
    result.append(float_tensor("scalar", np.float32(1.5), "bf16"))
    result.append(float_tensor("cube", rng.standard_normal((3, 4, 5)).astype(np.float32), "f32"))
    return result


def write_model(path: Path, layout: str = "planar", names: tuple[str, ...] = (), **options) -> Path:
    """names: of the tensors to write, by default all."""
    with ModelWriter(path, config=CONFIG, layout=layout, provenance={"seed": 1}, **options) as writer:
        for tensor in tensors():
            if not names or tensor.name in names:
                writer.add(tensor)
        writer.add_file("tokenizer.json", b'{"model": {}}')
        writer.add_file("vocab.txt", b"")
        writer.precision = {"block": {"format": "int4/64", "reason": "asked for"}}
    return path


def assert_same(left: WeightTensor, right: WeightTensor) -> None:
    assert (left.name, left.shape, left.format) == (right.name, right.shape, right.format)
    assert left.planes.keys() == right.planes.keys()
    for name, plane in left.planes.items():
        assert plane.dtype == right.planes[name].dtype
        np.testing.assert_array_equal(
            plane.view(np.uint8) if plane.ndim else plane, _bytes(right.planes[name])
        )


def _bytes(plane: np.ndarray) -> np.ndarray:
    return plane.view(np.uint8) if plane.ndim else plane
