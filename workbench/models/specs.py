"""What a model reads of a checkpoint: tensors by name, their shapes, and descriptions of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from wgsl_kernels.layout import LORA_STEP
from workbench.errors import UnsupportedModelError
from workbench.formats.spec import WeightFormat

VECTOR = WeightFormat("f32")
#: Describes a tensor of the checkpoint: name -> (shape, format). Raises for one that is missing.
Describe = Callable[[str], tuple[tuple[int, ...], WeightFormat]]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that the model reads. keys: of config.json that decide that it is there, and its shape. experts: whose
    matrices its rows are, one under the other."""

    shape: tuple[int, ...]
    keys: tuple[str, ...]
    experts: int = 1


@dataclass(frozen=True)
class LowRank:
    """Adapters of low rank that are loaded beside a model (`workbench.models.adapted`).

    names: what sequences call them. ranks: matrix of the checkpoint -> the largest rank that any has for it. default:
    the name that those have that name none, None for no adapter.
    """

    names: tuple[str, ...]
    ranks: Mapping[str, int]
    default: str | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.names)

    def rank(self, weights: Iterable[str]) -> int:
        """What the factors of a group of matrices are padded to; 0 where no adapter is on any of them."""
        return -(-max(self.ranks.get(weight, 0) for weight in weights) // LORA_STEP) * LORA_STEP


def lora_names(weights: Iterable[str]) -> tuple[str, str]:
    """What sources call the factors A and B, of all adapters, for a group of matrices of the checkpoint that read one
    input; `weights_of` is the inverse."""
    stem = "+".join(weight.removesuffix(".weight") for weight in weights)
    return f"{stem}.lora_A", f"{stem}.lora_B"


def weights_of(name: str) -> tuple[list[str], str] | None:
    """The matrices and the key, "A" or "B", of a name of `lora_names`, None for any other."""
    stem, dot, key = name.rpartition(".lora_")
    if not dot or key not in ("A", "B"):
        return None
    return [f"{each}.weight" for each in stem.split("+")], key


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor as a checkpoint holds them: a matrix of its own; or, with `at`, of the matrix at that place of
    a tensor [matrices, columns, rows] the rows from `first` on, which are columns there. width: all of its columns."""

    tensor: str
    rows: int
    at: int | None = None
    first: int = 0
    width: int = 0

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Of its tensor in the checkpoint. spec: of the tensor that it is a piece of."""
        columns = spec.shape[1]
        return (self.rows, columns) if self.at is None else (spec.experts, columns, self.width)


def described_in(tensors: Mapping[str, TensorSpec], fmt: WeightFormat) -> Describe:
    """What `source.describe` gives, with every matrix in `fmt`; raises `UnsupportedModelError` for other names."""

    def describe(name: str) -> tuple[tuple[int, ...], WeightFormat]:
        if name not in tensors:
            raise UnsupportedModelError(f"a checkpoint of this configuration has no tensor {name!r}")
        shape = tensors[name].shape
        return shape, fmt.fitted(shape[1]) if len(shape) == 2 else VECTOR

    return describe


def describe_as(describe: Describe, fmt: WeightFormat) -> Describe:
    """A description of the same tensors with every matrix in `fmt`."""

    def described(name: str) -> tuple[tuple[int, ...], WeightFormat]:
        shape, stored = describe(name)
        return tuple(shape), fmt.fitted(shape[1]) if len(shape) == 2 else stored

    return described
