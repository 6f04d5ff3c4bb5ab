"""Does calibration pay? A calibrated conversion beside round to nearest, on a few windows of the calibration text.

A quantizer that learns can learn the wrong thing: from a text that is too short or unlike others, or because layers
that are each nearer to the original are further from it together. So a few windows, which the quantizer did not learn
from where the text is long enough, go through three models stage by stage: the unquantized one, what is stored, and
what round to nearest would store in the same formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from eval.statistics import clustered_se, divergence, larger_se, mean_se
from workbench.convert.capture import run_layer
from workbench.convert.decoder import Decoder, Weights
from workbench.convert.lookup import ROWS, looked_up, row_parts
from workbench.convert.tensors import convert_tensor, quantizer_on
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, quantized_tensor
from workbench.models.architecture import Architecture
from workbench.models.source import Source
from workbench.quantizers import rtn

#: The three models, by the names of their hidden states among the streams of a conversion.
FLOAT, STORED, NEAREST = "check.unquantized", "check.stored", "check.nearest"
Streams = dict[str, torch.Tensor]


def nearest(weights: torch.Tensor, fmt: WeightFormat) -> torch.Tensor:
    """What round to nearest restores of a matrix or vector, f32 on its device."""
    values = weights.cpu().numpy()
    if fmt.is_quantized:
        stored = quantized_tensor("", values.shape, fmt, *rtn.quantize(values, fmt))
    else:
        stored = float_tensor("", values, fmt.dtype)
    return torch.from_numpy(stored.dequantize()).to(weights.device)


@dataclass(frozen=True)
class Verdict:
    """Mean KL(unquantized || model) a token, in nats, of what is stored and of round to nearest; excess: the first less
    the second, paired token by token, with its standard errors: tokens taken as independent (se), or windows."""

    quantizer: str
    tokens: int
    kl: float
    kl_nearest: float
    excess: float
    excess_se: float
    excess_se_clustered: float | None = None

    @property
    def note(self) -> str | None:
        """A warning where calibration made it worse, by more than the larger error of the difference."""
        error = larger_se(self.excess_se, self.excess_se_clustered)
        if not self.excess > error:
            return None
        return (
            f"{self.quantizer} ends worse than round to nearest would: a KL of {self.kl:.3g} nats a token in place of "
            f"{self.kl_nearest:.3g}, {self.excess:+.2g} ± {error:.1g} on {self.tokens} tokens of the "
            "calibration text"
        )

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Check:
    """The three models side by side; what they make of the windows travels with the streams of the conversion."""

    def __init__(
        self,
        source: Source,
        config: Architecture,
        formats: Mapping[str, WeightFormat],
        device: str,
        ids: np.ndarray,
    ) -> None:
        """formats: of every tensor; ids int64 [n, T]: the windows."""
        self._source, self._config, self._formats, self._device = source, config, formats, device
        self._ids = ids
        self._decoder = Decoder(config, source.describe, ids.shape[1], device)

    def embedded(self, stored: WeightTensor) -> Streams:
        """The rows of the embedding that the windows look up, f32 [n, T, hidden]."""
        name = self._config.embedding
        rounded = convert_tensor(self._source, name, self._formats[name], quantizer_on("rtn", self._device))
        parts = {
            FLOAT: self._source.parts(name),
            STORED: row_parts(stored),
            NEAREST: row_parts(rounded),
        }
        width = self._config.hidden_size
        return {
            model: self._decoder.embedded({}, looked_up(each, self._ids, width))
            for model, each in parts.items()
        }

    def layer(self, index: int, weights: Weights, stored: Weights, streams: Streams) -> Streams:
        """The hidden states behind a layer. weights: unquantized; stored: restored."""
        rounded = {name: nearest(each, self._formats[name]) for name, each in weights.items()}
        models = {FLOAT: weights, STORED: stored, NEAREST: rounded}
        return {
            name: run_layer(self._decoder, index, models[name], streams[name], self._device)
            for name in models
        }

    def verdict(self, quantizer: str, streams: Streams, final: Weights, stored: WeightTensor) -> Verdict:
        """final: weights between the last layer and the LM head. stored: the LM head, or the embedding that it is tied
        to."""
        logits: dict[str, list[np.ndarray]] = {FLOAT: [], STORED: [], NEAREST: []}
        hidden = {
            name: self._decoder.final(final, streams[name].to(self._device)).flatten(0, -2) for name in logits
        }
        with torch.no_grad():
            for rows in self._head_rows(stored):
                for name, weights in zip(logits, rows, strict=True):
                    products = (hidden[name] @ weights.T)[None]
                    logits[name].append(self._decoder.logits(products)[0].cpu().numpy())
        whole = {name: np.concatenate(parts, 1) for name, parts in logits.items()}
        unread = np.zeros(len(whole[FLOAT]), np.int64)  # only the KL is asked for
        kl, plain = (divergence(whole[name], whole[FLOAT], unread).kl for name in (STORED, NEAREST))
        excess = kl - plain
        mean = [float(each.mean()) for each in (kl, plain, excess)]
        windows, length = self._ids.shape
        clustered = clustered_se(excess, np.repeat(np.arange(windows), length)) if windows > 1 else None
        return Verdict(quantizer, len(kl), mean[0], mean[1], mean[2], mean_se(excess), clustered)

    def _head_rows(self, stored: WeightTensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Ranges of rows of the LM head, in the order of the models."""
        head = self._config.lm_head
        fmt = self._formats[head]
        whole = fmt.is_quantized and fmt.granularity == "tensor"  # one scale over all rows
        parts = [(0, self._source.tensor(head))] if whole else self._source.parts(head)
        for start, part in parts:
            values = torch.from_numpy(part.dequantize()).to(self._device)
            rounded = nearest(values, fmt)
            for first in range(0, len(values), ROWS):
                end = min(first + ROWS, len(values))
                kept = stored.rows(start + first, start + end).dequantize()
                yield values[first:end], torch.from_numpy(kept).to(self._device), rounded[first:end]
