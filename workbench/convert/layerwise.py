"""Calibrated conversion: one decoder layer in memory at a time, each given what the layers before it produce.

Stages, each committed to a work folder when it is done: the embedding, every decoder layer, the end (final norm, LM
head). Hidden states of the calibration windows stay on the CPU between them. By default a layer is calibrated with
the outputs of the quantized layers before it, as GPTQ does (Frantar et al. 2023, section 4): it can then make up for
part of their errors, and sees the inputs that it will see in use. `calibration_inputs="float"` gives it the outputs
of the unquantized ones, so that layers do not depend on each other.

An embedding that is only looked up meets no input, and is rounded without data. A tied one is also the LM head, whose
inputs are known only behind the last layer: the unquantized model is run once for their moments, and both uses count
alike (`Moments.with_lookup`; on the embedded model that is better than either alone, docs/quantizers.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from workbench.convert.calibration import Calibration
from workbench.convert.capture import Moments, capture, capture_rows, run_layer
from workbench.convert.check import Check
from workbench.convert.decoder import Decoder, Weights
from workbench.convert.layer import quantize_layer
from workbench.convert.lookup import looked_up, row_parts
from workbench.convert.options import ConvertOptions
from workbench.convert.rounding import Rounding
from workbench.convert.tensors import convert_tensor
from workbench.convert.work import WorkFolder
from workbench.errors import CheckpointError, WorkbenchError
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.known import known
from workbench.models.architecture import Architecture
from workbench.models.finite import require_finite
from workbench.models.source import Source, require_floats
from workbench.quantizers import QUANTIZERS
from workbench.runtime.feeding import check_ids
from workbench.runtime.provenance import versions

#: What the record of the last stage says of the whole, beside its tensors.
CHECK = "(check)"
Streams = dict[str, torch.Tensor]
Record = dict[str, dict[str, Any]]


@dataclass
class Layerwise:
    """The stages of one conversion. formats: of every tensor to store; device: as torch names it."""

    source: Source
    config: Architecture
    formats: Mapping[str, WeightFormat]
    options: ConvertOptions
    calibration: Calibration

    def __post_init__(self) -> None:
        self.method = QUANTIZERS[self.options.quantizer]
        self.device = self.options.device
        self.seed = self.calibration.record["seed"]
        require_floats(self.source, f"{self.options.quantizer} with calibration quantizes the model")
        try:
            length = self.calibration.ids.shape[1]
            self.decoder = Decoder(self.config, self.source.describe, length, self.device)
        except (RuntimeError, AssertionError) as error:  # what torch raises for devices that are not there
            raise WorkbenchError(
                f"convert: device = {self.device!r}: {str(error).splitlines()[0]}"
            ) from error
        ids, check = self.calibration.ids, self.calibration.check
        try:
            check_ids(
                np.concatenate([each.ravel() for each in (ids, check) if each is not None]),
                self.config.vocab_size,
            )
        except WorkbenchError as error:
            raise WorkbenchError(f"{self.source.path}: calibration: {error}") from error
        self.check: Check | None = None
        if self.method.needs and check is not None:
            self.check = Check(self.source, self.config, self.formats, self.device, check)

    @property
    def stages(self) -> int:
        return self.config.layers + 2

    def run(self, work: WorkFolder, bar) -> None:
        """Do the stages that the work folder does not hold. bar: tqdm's, counting weights."""

        def weights(names: Iterable[str]) -> int:
            return sum(math.prod(self.source.describe(name)[0]) for name in names)

        bar.n = bar.initial = weights(name for name in self.formats if name in work)
        streams: Streams = {}
        if 0 < work.done < self.stages:
            streams = {name: torch.from_numpy(each) for name, each in work.streams().items()}
        for stage in range(work.done, self.stages):
            if stage == 0:
                bar.set_postfix_str("embedding")
                tensors, record, streams = self.embedding(bar.set_postfix_str)
            elif stage <= self.config.layers:
                bar.set_postfix_str(f"layer {stage - 1}")
                tensors, record, streams = self.layer(stage - 1, streams, bar.set_postfix_str)
            else:
                bar.set_postfix_str("LM head")
                tensors, record, streams = self.end(streams, work)
            work.commit(tensors, record, {name: each.numpy() for name, each in streams.items()})
            bar.update(weights(tensor.name for tensor in tensors))

    # --- stages

    def embedding(self, say: Callable[[str], None]) -> tuple[list[WeightTensor], Record, Streams]:
        name = self.config.embedding
        unquantized = self._embedded(self.source.parts(name))
        tied = self.config.tied_embeddings and self.formats[name].is_quantized
        moments = self._tied_moments(unquantized.clone(), say) if tied else None
        stored, record = self._matrix(name, moments)
        streams = self.check.embedded(stored) if self.check else {}
        if self.options.calibration_inputs == "float":
            return [stored], record, {**streams, "hidden": unquantized}
        streams["hidden"] = self._embedded(row_parts(stored))
        if self.method.trains:
            streams["unquantized"] = unquantized
        return [stored], record, streams

    def layer(
        self, index: int, streams: Streams, say: Callable[[str], None]
    ) -> tuple[list[WeightTensor], Record, Streams]:
        weights = self._layer_weights(index)
        formats = {name: self.formats[name] for name in weights}
        hidden, chained = streams["hidden"], self.options.calibration_inputs == "quantized"
        moments = capture(self.decoder, index, weights, hidden, self.device, self.seed)
        unquantized = streams.get("unquantized", hidden)
        # What the unquantized layer makes of its own inputs, and what training aims at.
        targets = None
        if self.method.trains or not chained:
            targets = run_layer(self.decoder, index, weights, unquantized, self.device)
        train = None
        if self.method.trains:
            from workbench.quantizers.trained import train as training

            def told(step: int, steps: int, *_: object) -> None:
                say(f"layer {index}, step {step}/{steps}")

            train = partial(
                training,
                inputs=hidden,
                targets=targets,
                seed=self.seed + index,
                device=self.device,
                progress=told,
                **({} if self.options.steps is None else {"steps": self.options.steps}),
            )
        try:
            result = quantize_layer(
                self.method,
                self.decoder,
                index,
                weights,
                formats,
                moments,
                device=self.device,
                train=train,
            )
        except (FormatError, ValueError) as error:
            raise CheckpointError(f"{self.source.path}: layer {index}: {error}") from error
        tensors, record = list(result.tensors.values()), result.record
        stored = {
            name: torch.from_numpy(each.dequantize()).to(self.device) for name, each in result.tensors.items()
        }
        after = self.check.layer(index, weights, stored, streams) if self.check else {}
        if not chained:
            return tensors, record, {**after, "hidden": known(targets)}
        after["hidden"] = run_layer(self.decoder, index, stored, hidden, self.device, into=hidden)
        if self.method.trains:
            after["unquantized"] = known(targets)
        return tensors, record, after

    def end(self, streams: Streams, work: WorkFolder) -> tuple[list[WeightTensor], Record, Streams]:
        """Final norm, LM head, and whatever else the checkpoint has; then the check."""
        tensors, record = [], {}
        done = {name for stage in (self.decoder.first, *self.decoder.layers) for name in stage.tensors}
        final = self._final_weights()
        for name, fmt in self.formats.items():
            if name in done:
                continue
            moments = None
            if name == self.config.lm_head and fmt.is_quantized:
                moments = self._head_moments(streams["hidden"], final)
            stored, found = self._matrix(name, moments)
            record |= found
            tensors.append(stored)
        if self.check:
            name = self.config.lm_head
            head = next((each for each in tensors if each.name == name), None) or work.tensor(name)
            record[CHECK] = self.check.verdict(self.options.quantizer, streams, final, head).to_json()
        return tensors, record, {}

    # --- parts of stages

    def _float(self, name: str) -> torch.Tensor:
        """A tensor of the source as float32 on the device; CheckpointError if it is not finite."""
        values = self.source.tensor(name).dequantize()
        require_finite(self.source.path, name, 0, values)
        return torch.from_numpy(values).to(self.device)

    def _layer_weights(self, index: int) -> dict[str, torch.Tensor]:
        """Of a decoder layer of the source, by name."""
        read = set(self.decoder.layers[index].tensors)
        return {name: self._float(name) for name in self.formats if name in read}

    def _final_weights(self) -> dict[str, torch.Tensor]:
        """Those between the last layer and the LM head."""
        return {name: self._float(name) for name in self.decoder.final_tensors()}

    def _matrix(self, name: str, moments: Moments | None) -> tuple[WeightTensor, Record]:
        """Embedding or LM head, in ranges of rows; moments None where it is only looked up."""
        rounding = Rounding(self.method.rounding if moments else self.method.lookup, moments, self.device)
        stored = convert_tensor(self.source, name, self.formats[name], rounding)
        return stored, {name: rounding.record()} if stored.format.is_quantized else {}

    def _head_moments(self, hidden: torch.Tensor, final: Weights) -> Moments:
        def rows(part: slice) -> torch.Tensor:
            return self.decoder.final(final, hidden[part].to(self.device))

        return capture_rows(rows, hidden, self.config.hidden_size, self.device, self.seed)

    def _tied_moments(self, hidden: torch.Tensor, say: Callable[[str], None]) -> Moments:
        """Of both uses of a tied embedding, in the unquantized model. `hidden` is lost."""
        for index in range(self.config.layers):
            say(f"embedding, which is the LM head too: unquantized layer {index + 1}/{self.config.layers}")
            run_layer(self.decoder, index, self._layer_weights(index), hidden, self.device, into=hidden)
        return self._head_moments(hidden, self._final_weights()).with_lookup()

    def _embedded(self, parts: Iterable[tuple[int, WeightTensor]]) -> torch.Tensor:
        """What the first layer reads of the calibration windows, f32 [n, T, hidden_size]. parts: of the embedding."""
        rows = looked_up(parts, self.calibration.ids, self.config.hidden_size)
        return self.decoder.embedded({}, rows)


def work_facts(layerwise: Layerwise, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides the tensors, as JSON values. hashes: of the source's files.

    Sums depend on the number of threads, in their last bits.
    """
    calibration = {key: value for key, value in layerwise.calibration.record.items() if key != "fingerprint"}
    return {
        "source": dict(hashes),
        "quantizer": layerwise.options.quantizer,
        "options": layerwise.options.to_json(),
        "calibration": calibration,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "checked": layerwise.check is not None,
    }
