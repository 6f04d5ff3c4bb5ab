"""An error waterfall of a whole model, in nats: the same plan, with quantization applied in part.

    found = model_waterfall("runs/demo/models/int4", "checkpoint", text, "disjoint-512", dtype="int8")
    print(found)
    found.plot()

The references run the model with the weights of each stage of `eval.weight_stages` in turn, then the packed bytes
with rounded activations, then the packed bytes go through WGSL. All runs score the same windows, so what a cause
adds is a paired difference to the run before it, with its error; the differences add up, token by token, to what
the finished model loses against unquantized weights. Tensors that the file keeps as floats are the same in every run.
With INT8 activations the last difference is no loss of the kernels but the noise floor of such activations, backend
against backend; the kernels are then compared on equal inputs (`kernels`).
Each run goes beside the unquantized one, which is repeated for it: so two sets of weights lie in memory at a time, and
not those of all stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import inputs
from eval.losses import Loss, paired_loss
from eval.perplexity import perplexities
from eval.protocols import Protocol, protocol
from eval.report import Tabular, finite, ppl_text
from eval.result import PerplexityResult
from eval.texts import Tokens
from eval.waterfall import bars, kernel_missing
from eval.weight_stages import stage_weights, stages
from workbench.errors import NoAdapterError, ProtocolError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor
from workbench.known import known
from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.quantizers.blocks import row_chunks
from workbench.show.progress import RunProgress

if TYPE_CHECKING:
    from eval.kernel_checks import KernelChecks

UNQUANTIZED = "unquantized"
#: The last run where activations are INT8.
NOISE = "INT8 activation noise floor (backend against backend)"
#: Of the first window, to compare kernels on equal inputs.
CHECKED_TOKENS = 128
#: Weights that are quantized at a time: in f64, with what lies beside them, a small part of a matrix.
PART_WEIGHTS = 1 << 20


class StagedSource:
    """A stored model whose quantized matrices are those of the checkpoint it was made from, with the causes up to a
    stage applied, as f32 (`unquantized`: as they are there). A source, as executors and `Model` take it."""

    def __init__(self, stored: StoredModel, original: Any, quantizer: str, stage: str) -> None:
        self.path, self.tokenizer_path, self.config = stored.path, stored.tokenizer_path, stored.config
        self.manifest = {"provenance": {**stored.manifest.get("provenance", {}), "waterfall_stage": stage}}
        self._stored, self._original = stored, original
        self._quantizer, self._stage = quantizer, stage

    def names(self) -> list[str]:
        return self._stored.names()

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        shape, form = self._stored.describe(name)
        if not form.is_quantized:
            return shape, form
        return shape, self._original.describe(name)[1] if self._stage == UNQUANTIZED else WeightFormat("f32")

    def tensor(self, name: str) -> WeightTensor:
        shape, form = self._stored.describe(name)
        if not form.is_quantized:
            return self._stored.tensor(name)
        if self._stage == UNQUANTIZED:
            return self._original.tensor(name)
        return float_tensor(name, np.concatenate([rows for _, rows in self._rows(name, shape, form)]), "f32")

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        shape, form = self._stored.describe(name)
        if not form.is_quantized:
            yield from self._stored.parts(name)
            return
        if self._stage == UNQUANTIZED:
            yield from self._original.parts(name)
            return
        for first, values in self._rows(name, shape, form):
            yield first, float_tensor(name, values, "f32")

    def _rows(
        self, name: str, shape: tuple[int, ...], form: WeightFormat
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows f32) of a quantized matrix; a few at a time where no scale reaches beyond its row."""
        original, stored = self._original.tensor(name), self._stored.tensor(name)
        whole, (height, width) = form.granularity == "tensor", shape
        for part in row_chunks(height, width, height * width if whole else PART_WEIGHTS):
            rows = original.rows(part.start, part.stop).dequantize()
            values = stage_weights(rows, form, self._stage, self._quantizer)
            if self._stage == stages(form)[-1]:
                self._check(name, values, stored.rows(part.start, part.stop))
            yield part.start, values

    def _check(self, name: str, made: np.ndarray, stored: WeightTensor) -> None:
        if not np.array_equal(made, stored.dequantize()):
            raise ProtocolError(
                f"{self.path}: {name} is not what quantizer {self._quantizer!r} makes of {self._original.path}; a "
                "waterfall repeats the quantization and can do so without calibration data only"
            )


@dataclass(frozen=True, eq=False)
class ModelWaterfall(Tabular):
    """Runs in order, the unquantized one first. adds: each run against the one before it, by cause; total: the last
    against the first. kernels: each kernel on equal inputs, where activations are INT8. notes: causes that were left
    out, and why; what the kernels' comparison found."""

    results: Mapping[str, PerplexityResult] = field(repr=False)
    adds: Mapping[str, Loss]
    total: Loss
    quantizer: str
    dtype: str
    notes: tuple[str, ...] = ()
    kernels: KernelChecks | None = field(default=None, repr=False)

    @property
    def caption(self) -> str:
        first = self.results[UNQUANTIZED]
        source = first.text["name"] if first.text else "bare tokens"
        size = f"{first.tokens_scored:,} tokens"
        return f"{first.protocol.name} on {source}, {size}; perplexity {ppl_text(first.ppl)} unquantized"

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for cause, loss in [*self.adds.items(), ("total", self.total)]:
            result = self.results[cause if cause in self.results else list(self.results)[-1]]
            against = known(result.baseline)
            rows.append(
                {
                    "cause": cause,
                    "adds, nats": loss.mean,
                    "± SE": loss.se,
                    "± clustered": loss.se_clustered,
                    "RMS d": loss.rms,
                    "perplexity": result.ppl,
                    "KL": against.kl_mean,
                    "same top-1": against.same_top1,
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        return finite(
            {
                "quantizer": self.quantizer,
                "dtype": self.dtype,
                "adds": {cause: loss.to_json() for cause, loss in self.adds.items()},
                "total": self.total.to_json(),
                "results": {name: result.to_json() for name, result in self.results.items()},
                "notes": list(self.notes),
                "kernels": self.kernels.to_json() if self.kernels else None,
            }
        )

    def plot(self, axes: Any = None) -> Any:
        """What each cause adds to ln PPL, with its paired standard errors."""
        losses = list(self.adds.values())
        axes = bars(list(self.adds), [loss.mean for loss in losses], [loss.se for loss in losses], axes)
        axes.set(ylabel="ln(PPL / PPL unquantized)", title=self.caption)
        return axes


def model_waterfall(  # many parameters: the options of an evaluation, each of its own
    quantized: str | StoredModel,
    unquantized: Any,
    text: Any,
    scheme: Any,
    *,
    separator: str | None = None,
    dtype: str = "f32",
    kernel: bool | None = None,
    max_windows: int | None = None,
    progress: RunProgress | None = None,
) -> ModelWaterfall:
    """The waterfall of a converted model on a text.

    quantized: a converted folder; unquantized: the checkpoint that it was made from. dtype: activations of the
    finished run, as in `workbench.load`. kernel: whether the last run goes through WGSL; None where there is an
    adapter. Text, protocol and the rest as in `eval.perplexity.perplexities`. Raises ProtocolError for a model that
    is not quantized, or whose quantizer needs data that a waterfall does not have.
    """
    stored, original = open_source(quantized), open_source(unquantized)
    names = (
        [n for n in stored.names() if stored.describe(n)[1].is_quantized]
        if isinstance(stored, StoredModel)
        else []
    )
    if not names:
        raise ProtocolError(f"{stored.path}: holds no quantized matrix; a waterfall needs a converted model")
    quantizer = stored.manifest.get("provenance", {}).get("quantizer", "rtn")
    steps = max((stages(stored.describe(n)[1]) for n in names), key=len)
    runs: dict[str, Callable[[], Any]] = {
        step: partial(_references, StagedSource(stored, original, quantizer, step)) for step in steps
    }
    if dtype != "f32":
        runs[f"{dtype} activations"] = partial(_references, stored, dtype)
    missing, notes = kernel_missing(dtype), []
    if kernel and missing:
        raise NoAdapterError(missing)
    if kernel is not False and missing:
        notes.append(f"kernel: {missing}")
    elif kernel is not False:
        runs[NOISE if dtype == "int8" else "kernel"] = partial(_kernels, stored, dtype)
    base = _references(StagedSource(stored, original, quantizer, UNQUANTIZED))
    scheme = inputs.fitting(protocol(scheme), {UNQUANTIZED: base})
    tokens = inputs.tokens(base, text, scheme, separator)
    kernels = _on_equal_inputs(_kernels(stored, dtype), tokens, scheme) if NOISE in runs else None
    if kernels:
        notes.append(kernels.verdict)
    results: dict[str, PerplexityResult] = {}
    for index, (name, made) in enumerate(runs.items()):
        found = perplexities(
            {UNQUANTIZED: base, name: made()},
            tokens,
            scheme,
            baseline=UNQUANTIZED,
            max_windows=max_windows,
            progress=_part(progress, index, len(runs)),
        )
        results = found | results
    results = {name: results[name] for name in (UNQUANTIZED, *runs)}
    order = list(results)
    adds = {name: paired_loss(name, results[name], results[before]) for before, name in pairwise(order)}
    total = paired_loss("total", results[order[-1]], results[UNQUANTIZED])
    return ModelWaterfall(results, adds, total, quantizer, dtype, tuple(notes), kernels)


def _on_equal_inputs(model: Any, tokens: Tokens, scheme: Protocol) -> KernelChecks:
    """The kernels on the beginning of the first window."""
    from eval.kernel_checks import check_kernels

    first = scheme.windows(
        tokens.ids, bos=tokens.bos, starts=(0,) if tokens.starts is None else tokens.starts
    )[0]
    return check_kernels(model, first.ids[:CHECKED_TOKENS])


def _part(progress: RunProgress | None, index: int, count: int) -> RunProgress | None:
    """The progress of one of `count` equal parts, as one of the whole."""
    if progress is None:
        return None
    return lambda done, total, name, nll: progress(index * total + done, count * total, name, nll)


def _references(source: Any, dtype: str = "f32") -> Any:
    from workbench.runtime.torch_executor import TorchExecutor

    return _model(source, lambda config: TorchExecutor(source, config, activations=dtype, compact=True))


def _kernels(source: Any, dtype: str) -> Any:
    from workbench.runtime.device import open_device
    from workbench.runtime.wgpu_executor import WgpuExecutor

    return _model(source, lambda config: WgpuExecutor(source, config, open_device(), activations=dtype))


def _model(source: Any, make: Any) -> Any:
    from workbench.runtime.model import Model

    config = architecture_of(source.config)
    return Model(source, config, lambda: make(config), [], config.context_length)
