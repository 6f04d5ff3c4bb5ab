"""One decoder layer by one method: scales folded in or not, matrices rounded, the layer trained or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from workbench.convert.capture import Moments
from workbench.convert.decoder import Decoder
from workbench.convert.fold import fold_layer
from workbench.convert.rounding import errors_of, rounding_of
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, quantized_tensor
from workbench.models.specs import TensorSpec
from workbench.plan.inputs import read_together
from workbench.quantizers import Quantizer
from workbench.quantizers.blocks import Quantized
from workbench.quantizers.suited import suited


def suited_again(
    together: Iterable[Sequence[str]],
    weights: Mapping[str, torch.Tensor],
    formats: Mapping[str, WeightFormat],
) -> dict[str, WeightFormat]:
    """The formats of a layer's matrices whose weights have changed: what f16 no longer holds becomes f32.

    together: names of the matrices that read one input.
    """
    changed = dict(formats)
    for names in together:
        for fmt in {formats[name] for name in names}:
            alike = [name for name in names if formats[name] == fmt]
            kept, _ = suited(fmt, [weights[name].cpu().numpy() for name in alike])
            changed |= dict.fromkeys(alike, kept)
    return changed


def _inputs(moments: Moments, spec: TensorSpec) -> Moments:
    """Those of a matrix: by expert only where it is experts'."""
    return moments if spec.experts > 1 else replace(moments, experts=())


@dataclass(frozen=True)
class LayerResult:
    """tensors: as they are stored, by name. record: JSON values by the same names."""

    tensors: dict[str, WeightTensor]
    record: dict[str, dict[str, Any]]


def quantize_layer(
    method: Quantizer,
    decoder: Decoder,
    index: int,
    weights: Mapping[str, torch.Tensor],
    formats: Mapping[str, WeightFormat],
    moments: Mapping[str, Moments],
    *,
    device: str,
    train: Callable[..., dict[str, Quantized]] | None = None,
) -> LayerResult:
    """One decoder layer by one method.

    index: of the layer. weights: float32 on `device` by name in the checkpoint; formats: of all of them; moments: of
    what its linear layers read, by its name in the plan.
    train: of methods that train; called as train(weights, formats, forward, initial=...) with what is quantized.
    Raises ValueError or FormatError for weights that a format cannot hold.
    """
    left: dict[str, str] = {}
    reads, specs = read_together(decoder.plan), decoder.architecture.tensors()
    together = {read: [decoder.plan.buffers[m].tensor for m in reads[read]] for read in moments}
    if method.folds:
        from workbench.quantizers.awq import search_scale

        def search(matrices: list[torch.Tensor], kind: WeightFormat, inputs: Moments) -> torch.Tensor:
            found = search_scale(
                [each.cpu().numpy() for each in matrices],
                kind,
                inputs=inputs.samples.cpu().numpy(),
                mean_abs=inputs.mean_abs.cpu().numpy(),
                device=device,
            )
            return torch.as_tensor(found, dtype=torch.float32, device=device)

        weights, moments, left = fold_layer(decoder.plan, weights, formats, moments, search)
        formats = suited_again(together.values(), weights, formats)
    read_by = {name: read for read, names in together.items() for name in names}
    rounded: dict[str, Quantized] = {}
    record: dict[str, dict[str, Any]] = {}
    for name, weight in weights.items():
        if formats[name].is_quantized:
            inputs = _inputs(moments[read_by[name]], specs[name])
            rounding = rounding_of(method.rounding, inputs, device)
            try:
                rounded[name] = rounding(weight.cpu().numpy(), formats[name])
            except ValueError as error:
                raise ValueError(f"tensor {name!r} cannot be {formats[name]}: {error}") from error
            record[name] = rounding.record()
            if why := left.get(read_by[name]):
                record[name]["not_scaled"] = why
    if method.trains and rounded and train is not None:
        rest = {name: weight for name, weight in weights.items() if name not in rounded}
        rounded = train(
            {name: weights[name].cpu().numpy() for name in rounded},
            {name: formats[name] for name in rounded},
            lambda trained, hidden: decoder.layer(index, {**rest, **trained}, hidden),
            initial=rounded,
        )
    tensors = {}
    for name, weight in weights.items():
        if name in rounded:
            tensors[name] = quantized_tensor(name, tuple(weight.shape), formats[name], *rounded[name])
        else:
            tensors[name] = float_tensor(name, weight.cpu().numpy(), formats[name].dtype)
        if name in rounded and method.trains:
            errors = errors_of(_inputs(moments[read_by[name]], specs[name]))
            errors.add(weight, torch.from_numpy(tensors[name].dequantize()).to(weight.device))
            record[name] |= {"quantizer": "trained", **errors.to_json()}
    return LayerResult(tensors, record)
