"""What the matrices of a model are multiplied by: second moments of their inputs on the embedded calibration text.

The unquantized model runs once, layer by layer, with one layer's weights in memory at a time. A run that is stopped
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch

from workbench.convert.calibration import CalibrationOptions, load_calibration
from workbench.convert.capture import Moments, capture, capture_rows, run_layer
from workbench.convert.decoder import Decoder
from workbench.errors import WorkbenchError
from workbench.models.families import architecture_of
from workbench.models.source import Source
from workbench.models.tokenizer import load_tokenizer
from workbench.plan.inputs import read_together

#: The embedded text, as much of it as a first look needs.
TEXT = CalibrationOptions(windows=16, length=512)
#: Bytes of moments that are kept; a model that needs more is not calibrated here.
MOST = 2 << 30


class MatrixInputs:
    """E[x x^T] over the calibration tokens of every matrix that a source's plan multiplies by.

    source: an opened unquantized checkpoint. `measure` fills it; `hessian` gives what there is.
    """

    def __init__(self, source: Source):
        self.source, self.config = source, architecture_of(source.config)
        self._plan = self.config.build(source.describe)
        self._hessians: dict[str, torch.Tensor] = {}
        self._hidden: torch.Tensor | None = None
        self._layer = 0

    @property
    def nbytes(self) -> int:
        """Bytes that all moments take."""
        reads = {call.inputs["x"] for call in self._plan.calls if call.op == "linear"}
        return 4 * sum(self._plan.buffers[name].columns ** 2 for name in reads)

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
                self._through_layer(self._layer, self._hidden)
            else:
                self._at_the_end(self._hidden)
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
        return Decoder(self.config, self.source.describe, self._ids.shape[1])

    def _float(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.source.tensor(name).dequantize()))

    def _embedded(self) -> torch.Tensor:
        rows = self._float(self.config.embedding)[torch.from_numpy(self._ids)]
        return self._decoder.embedded({}, rows)

    def _through_layer(self, index: int, hidden: torch.Tensor) -> None:
        decoder, together = self._decoder, read_together(self._plan)
        weights = {name: self._float(name) for name in decoder.layers[index].tensors}
        for read, moments in capture(decoder, index, weights, hidden, "cpu", TEXT.seed).items():
            for matrix in together[read]:
                self._hessians[self._plan.buffers[matrix].tensor] = moments.hessian
        run_layer(decoder, index, weights, hidden, "cpu", into=hidden)

    def _at_the_end(self, hidden: torch.Tensor) -> None:
        decoder = self._decoder
        final = {name: self._float(name) for name in decoder.final_tensors()}

        def rows(part: slice) -> torch.Tensor:
            return decoder.final(final, hidden[part])

        moments: Moments = capture_rows(rows, hidden, self.config.hidden_size, "cpu", TEXT.seed)
        tied = self.config.tied_embeddings  # looked up, and multiplied by
        self._hessians[self.config.lm_head] = (moments.with_lookup() if tied else moments).hessian
        self._hidden = None
