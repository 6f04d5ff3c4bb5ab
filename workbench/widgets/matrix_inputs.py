"""What the matrices of a model are multiplied by: second moments of their inputs on the embedded calibration text.

The unquantized model runs once, layer by layer, with one layer's weights in memory at a time. A run that is stopped
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from workbench.convert.calibration import CalibrationOptions, load_calibration
from workbench.convert.capture import Moments, capture, capture_rows, run_layer
from workbench.convert.decoder import GROUPS, Decoder, normalised
from workbench.convert.layerwise import FINAL_NORM
from workbench.convert.options import EMBEDDING, LM_HEAD
from workbench.errors import WorkbenchError
from workbench.models.llama_config import LlamaConfig
from workbench.models.tokenizer import load_tokenizer

NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
#: The embedded text, as much of it as a first look needs.
TEXT = CalibrationOptions(windows=16, length=512)
#: Bytes of moments that are kept; a model that needs more is not calibrated here.
MOST = 2 << 30


class MatrixInputs:
    """E[x x^T] over the calibration tokens of every matrix that a source's plan multiplies by.

    source: an opened unquantized checkpoint. `measure` fills it; `hessian` gives what there is.
    """

    def __init__(self, source: Any):
        self.source, self.config = source, LlamaConfig.parse(source.config)
        self._hessians: dict[str, torch.Tensor] = {}
        self._hidden: torch.Tensor | None = None
        self._layer = 0

    @property
    def nbytes(self) -> int:
        """Bytes that all moments take."""
        c = self.config
        widths = [c.hidden_size, c.heads * c.head_dim, c.hidden_size, c.intermediate_size]
        return 4 * (c.layers * sum(width * width for width in widths) + c.hidden_size**2)

    @property
    def measured(self) -> bool:
        return self._layer > self.config.layers

    def hessian(self, name: str) -> np.ndarray | None:
        """Of the matrix of this name in the checkpoint, f32 [columns, columns]; None where its inputs are not known:
        not yet, or because nothing is multiplied by it, as by an embedding that is only looked up."""
        found = self._hessians.get(name)
        return None if found is None else found.numpy()

    def measure(self, progress: Callable[[float], bool]) -> bool:
        """Run the model. progress: told the share that is done between two layers; once it gives False, this does too,
        and the next call goes on. Raises WorkbenchError for a checkpoint without tokenizer or weights."""
        while not self.measured:
            if not progress(self._layer / (self.config.layers + 1)):
                return False
            if self._hidden is None:
                self._hidden = self._embedded()
            if self._layer < self.config.layers:
                self._through_layer(f"model.layers.{self._layer}.")
            else:
                self._at_the_end()
            self._layer += 1
        return True

    # ---- parts -------------------------------------------------------------------------------------------------

    @cached_property
    def _ids(self) -> np.ndarray:
        tokenizer = load_tokenizer(self.source.tokenizer_path)
        ids = load_calibration(TEXT, tokenizer, self.config.context_length).ids
        if ids.max() >= self.config.vocab_size:
            raise WorkbenchError(
                f"{self.source.path}: the tokenizer gives id {ids.max()}, outside the vocabulary of "
                f"{self.config.vocab_size}"
            )
        return ids

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.config, self._ids.shape[1])

    def _float(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.source.tensor(name).dequantize()))

    def _embedded(self) -> torch.Tensor:
        return self._float(EMBEDDING)[torch.from_numpy(self._ids)]

    def _through_layer(self, prefix: str) -> None:
        weights = {name: self._float(prefix + name) for name in self._read_by_a_layer()}
        for group, moments in capture(self._decoder, weights, self._hidden, "cpu", TEXT.seed).items():
            for linear in GROUPS[group]:
                self._hessians[f"{prefix}{linear}.weight"] = moments.hessian
        run_layer(self._decoder, weights, self._hidden, "cpu", into=self._hidden)

    def _read_by_a_layer(self) -> list[str]:
        """Names within a layer; what else a checkpoint has there changes nothing."""
        linears = [linear for group in GROUPS.values() for linear in group]
        biased = {"self_attn": self.config.attention_bias, "mlp": self.config.mlp_bias}
        biases = [f"{linear}.bias" for linear in linears if biased[linear.partition(".")[0]]]
        return [*NORMS, *(f"{linear}.weight" for linear in linears), *biases]

    def _at_the_end(self) -> None:
        norm, hidden = self._float(FINAL_NORM), self._hidden

        def rows(part: slice) -> torch.Tensor:
            return normalised(self.config, hidden[part], norm)

        moments: Moments = capture_rows(rows, hidden, self.config.hidden_size, "cpu", TEXT.seed)
        if self.config.tied_embeddings:  # looked up, and multiplied by
            self._hessians[EMBEDDING] = moments.with_lookup().hessian
        else:
            self._hessians[LM_HEAD] = moments.hessian
        self._hidden = None
