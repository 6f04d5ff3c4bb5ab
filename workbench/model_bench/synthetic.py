"""Models of random weights in the shape of published ones: what decides speed is there, and nothing is downloaded.

A text of theirs means nothing. Weights are uniform over the values that a format has (normal for floats), of deviation
1/sqrt(columns), so that activations stay finite; they repeat after some megabytes and with every part of a matrix,
which no kernel can notice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.files.reading import read_text
from workbench.formats.bf16 import to_bf16
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, plane_specs
from workbench.known import known
from workbench.models.adapted import Adapted
from workbench.models.catalogue import catalogue
from workbench.models.families import architecture_of
from workbench.models.lora import Factors, Lora
from workbench.models.specs import described_in

#: Bytes of random numbers that repeat, and of a part that is handed out at once.
POOL_BYTES, PART_BYTES = 8 << 20, 64 << 20
#: Standard deviation of integers that take all values equally often.
SPREAD = {bits: math.sqrt((4**bits - 1) / 12) for bits in (8, 4, 2)}


def shapes() -> list[str]:
    """Names of the catalogue whose configurations it knows."""
    return [name for name, entry in catalogue().items() if entry.config is not None]


def shape_config(name: str) -> dict[str, Any]:
    """The configuration of a name in `shapes()` or of a path to a `config.json`. Raises `WorkbenchError`."""
    if name in shapes():
        return dict(known(catalogue()[name].config))
    try:
        found = json.loads(read_text(name))
    except (OSError, ValueError) as error:
        names = ", ".join(shapes())
        raise WorkbenchError(
            f"{name!r} is not the name of a shape; allowed: {names}, or the path of a config.json ({error})"
        ) from error
    if not isinstance(found, dict):
        raise WorkbenchError(f"{name}: expected a JSON object, found {type(found).__name__}")
    return found


class RandomSource:
    """What a stored model offers to an executor, made up. format: of every matrix; norms are 1, biases too.

    config: as in `config.json`. seed: of the weights. Raises `UnsupportedModelError` for a family that is not known.
    """

    def __init__(self, name: str, config: Mapping[str, Any], format: WeightFormat, seed: int = 0):
        self.path = self.tokenizer_path = Path(name)  # no folder: there is no tokenizer
        self.config = dict(config)
        self._tensors = architecture_of(config).tensors()
        #: Shape and format of a tensor by name.
        self.describe = described_in(self._tensors, format)
        generator = np.random.default_rng(seed)
        self._bits = generator.integers(0, 2**32, POOL_BYTES // 4, dtype=np.uint32)
        self._normal = generator.standard_normal(POOL_BYTES // 4, dtype=np.float32)

    def names(self) -> list[str]:
        return list(self._tensors)

    def weight_files(self) -> list[Path]:
        """There are none."""
        return []

    def source_hashes(self) -> dict[str, str]:
        """Nothing was read."""
        return {}

    def tensor(self, name: str) -> WeightTensor:
        """The whole tensor."""
        shape, format = self.describe(name)
        if len(shape) == 1:
            return WeightTensor(name, shape, format, {"values": np.ones(shape, np.float32)})
        return self._matrix(name, shape, format)

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        """(first row, rows) of at most `PART_BYTES` as float32."""
        shape, format = self.describe(name)
        if len(shape) == 1:
            yield 0, self.tensor(name)
            return
        rows = max(4, PART_BYTES // (4 * shape[1]) // 4 * 4)
        for first in range(0, shape[0], rows):
            part = (min(rows, shape[0] - first), shape[1])
            yield first, self._matrix(f"{name}:{first}", part, format)

    def _matrix(self, name: str, shape: tuple[int, ...], format: WeightFormat) -> WeightTensor:
        planes = {}
        for plane, (wanted, dtype) in plane_specs(shape, format).items():
            if plane == "values":
                values = _repeated(self._normal, wanted) / math.sqrt(shape[1])
                planes[plane] = to_bf16(values) if format.dtype == "bf16" else values.astype(dtype)
            elif plane == "quants":
                planes[plane] = _repeated(self._bits, wanted)
            elif plane == "scales":
                planes[plane] = np.full(wanted, 1 / (SPREAD[format.bits] * math.sqrt(shape[1])), dtype)
            elif plane == "offsets":  # scales come first: what a zero-point there would be
                planes[plane] = np.full(wanted, -format.implied_zero * planes["scales"].flat[0], dtype)
            else:
                planes[plane] = np.full(wanted, format.implied_zero, dtype)
        return WeightTensor(name, shape, format, planes)


def _repeated(pool: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.resize(pool, math.prod(shape)).reshape(shape)


class RandomLora(Lora):
    """An adapter that was read nowhere: factors of one rank for every matrix of a source's decoder layers. seed: of the
    factors."""

    def __init__(self, source: RandomSource, rank: int, seed: int = 0):
        names = architecture_of(source.config).adaptable()
        self._shapes, self._seed = {name: source.describe(name)[0] for name in names}, seed
        factors = {name: Factors("", "", rank, 0, rows, 1.0) for name, (rows, _) in self._shapes.items()}
        super().__init__(Path(f"random {seed}"), factors)

    def down(self, weight: str) -> np.ndarray:
        """A, f32 [rank, columns]."""
        return self._drawn(weight, "A", self.factors[weight].rank, self._shapes[weight][1])

    def up(self, weight: str) -> np.ndarray:
        """B, f32 [rows, rank]."""
        return self._drawn(weight, "B", self._shapes[weight][0], self.factors[weight].rank)

    def hashes(self) -> dict[str, str]:
        """Nothing was read."""
        return {}

    def _drawn(self, weight: str, key: str, *shape: int) -> np.ndarray:
        generator = np.random.default_rng([self._seed, *f"{weight}.{key}".encode()])
        return generator.standard_normal(shape, dtype=np.float32) / (100 * math.sqrt(shape[1]))


def with_random_adapters(source: RandomSource, rank: int, count: int) -> Adapted:
    """A source with `count` adapters of a rank beside all matrices of its layers; sequences have the first of them
    unless they name another."""
    loras = {f"adapter {n}": RandomLora(source, rank, seed=n) for n in range(1, count + 1)}
    both = Adapted(source, loras, default="adapter 1")
    both.path = Path(f"{source.path.name} with {count} adapters of rank {rank}")
    return both
