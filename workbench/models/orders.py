"""Matrices whose columns lie in another order than those of their input, so that columns of a group are side by side.

GPTQ with act-order gives columns to groups in the order of their importance. A format has a scale for each run of
columns; so the columns of a group are put beside each other once, and a plan puts `select_columns` in front of the
product.

config.json says it in a key of ours, `column_orders`: tensor with an order -> the matrices that have it. Column i of
these meets column order[i] of the input. An order is a vector of f32 as all vectors are, which holds columns' numbers
exactly.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor
from workbench.models.keys import TEXT, Key, list_of, object_of
from workbench.models.over import Over
from workbench.models.specs import TensorSpec

NAME = "column_orders"
ENDING = ".order"
KEY = Key(NAME, object_of(list_of(TEXT)), {})


def of_matrices(
    given: Mapping[str, list[str]], tensors: Mapping[str, TensorSpec], linear: Container[str], where: str
) -> dict[str, str]:
    """Matrix -> tensor with the order of its columns, from the value of `KEY`.

    tensors: of the model without orders; linear: its matrices that may have one; where: the file, for messages. Raises
    UnsupportedModelError.
    """
    found: dict[str, str] = {}
    for order, matrices in given.items():
        if not order.endswith(ENDING) or order in tensors:
            raise UnsupportedModelError(f"{where}: {NAME} has {order!r}; allowed: names that end in {ENDING}")
        for matrix in matrices:
            if matrix not in linear or matrix in found:
                again = "a second time" if matrix in found else "which is no matrix of a linear layer"
                raise UnsupportedModelError(f"{where}: {NAME} of {order} names {matrix!r}, {again}")
            found[matrix] = order
        widths = sorted({tensors[matrix].shape[1] for matrix in matrices})
        if len(widths) != 1:
            told = " and ".join(map(str, widths)) or "no"
            raise UnsupportedModelError(
                f"{where}: {NAME} of {order} is of matrices with {told} columns; allowed: of one width"
            )
    return found


def specs_of(orders: Mapping[str, str], tensors: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The tensors that hold orders. tensors: with the matrices that have them."""
    return {order: TensorSpec((tensors[matrix].shape[1],), (NAME,)) for matrix, order in orders.items()}


def check_orders(source: Any, orders: Mapping[str, str]) -> None:
    """Raise CheckpointError where a tensor of an opened source is no order of columns."""
    for name in dict.fromkeys(orders.values()):
        order_of(source, name)


def order_of(source: Any, name: str) -> np.ndarray:
    """An order, int64 [columns], each column once. Raises CheckpointError for what is none."""
    values = source.tensor(name).dequantize()
    wanted = np.arange(len(values), dtype=np.float32)
    known = np.isin(values, wanted)
    if not known.all():
        at = int(np.argmin(known))
        why = f"{values[at]:g} at place {at}"
    elif not np.array_equal(np.sort(values), wanted):
        kept, counts = np.unique(values, return_counts=True)
        why = f"column {kept[np.argmax(counts)]:g} {counts.max()} times"
    else:
        return values.astype(np.int64)
    raise CheckpointError(
        f"{source.path}: tensor {name!r} is no order of columns: it has {why}; allowed: each of 0 to "
        f"{len(values) - 1} once"
    )


class InPlace(Over):
    """A source with the columns of all matrices in the order of their inputs. Integers whose columns move are given as
    f32, since blocks are runs of columns. orders: those of its architecture."""

    def __init__(self, source: Any, orders: Mapping[str, str]):
        super().__init__(source)
        self._orders = dict(orders)

    @property
    def config(self) -> dict[str, Any]:
        return {name: value for name, value in self.source.config.items() if name != NAME}

    def names(self) -> list[str]:
        left_out = set(self._orders.values())
        return [name for name in self.source.names() if name not in left_out]

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        shape, fmt = self.source.describe(name)
        return shape, WeightFormat("f32") if name in self._orders and fmt.is_quantized else fmt

    def tensor(self, name: str) -> WeightTensor:
        found = self.source.tensor(name)
        return self._in_place(name, found) if name in self._orders else found

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        for first, part in self.source.parts(name):
            yield first, self._in_place(name, part) if name in self._orders else part

    def _in_place(self, name: str, part: WeightTensor) -> WeightTensor:
        order = order_of(self.source, self._orders[name])
        values = np.empty(part.shape, np.float32)
        values[:, order] = part.dequantize()
        return float_tensor(name, values, self.describe(name)[1].dtype)
