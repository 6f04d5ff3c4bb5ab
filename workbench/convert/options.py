"""What a conversion is asked to do, and which format each tensor gets for which reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from workbench.convert.calibration import CalibrationOptions
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.models.architecture import Architecture
from workbench.quantizers import QUANTIZERS, QUANTIZERS_OF_ONE_MATRIX

LAYOUTS = ("planar", "interleaved")
CALIBRATION_INPUTS = ("quantized", "float")


@dataclass(frozen=True)
class ConvertOptions:
    """How a checkpoint is converted. Checked when made.

    format      of every 2-D weight: linear layers, embedding, LM head. 1-D tensors (norms, biases) are
                always f32: they are few, and every kernel reads them so. Routers of experts are f32 unless an
                override says otherwise.
    quantizer   a name of `workbench.quantizers.QUANTIZERS`; "hqq" takes no symmetric format
    embedding, lm_head
                formats of these two where they differ (f16 keeps them); if tied, either names both
    overrides   name pattern (`*`, `?`, `[...]` as in fnmatch) -> format of the matrices it matches, by their
                name in the checkpoint or in the plan; the first that matches wins, over everything above
    calibration the text that data-driven quantizers learn from, by default the embedded one; with the others
                it adds each matrix's errors on that text to the provenance
    calibration_inputs
                "quantized": a layer is given what the quantized layers before it produce; "float": the others
    steps       of quantizers that train, None for their default
    device      where calibration and searches run, as torch names it
    layout      "planar" (what runs without a copy) or "interleaved" (the exchange layout)
    overwrite   replace an existing output folder
    reason      why `format` is what it is, for the manifest
    reasons     pattern of an override -> why; "override PATTERN" for those without
    """

    format: WeightFormat
    quantizer: str = "rtn"
    embedding: WeightFormat | None = None
    lm_head: WeightFormat | None = None
    overrides: Mapping[str, WeightFormat] = field(default_factory=dict)
    layout: str = "planar"
    overwrite: bool = False
    reason: str = "default"
    reasons: Mapping[str, str] = field(default_factory=dict)
    calibration: CalibrationOptions | None = None
    calibration_inputs: str = "quantized"
    steps: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("quantizer", QUANTIZERS),
            ("layout", LAYOUTS),
            ("calibration_inputs", CALIBRATION_INPUTS),
        ):
            if (value := getattr(self, name)) not in allowed:
                raise WorkbenchError(f"convert: {name} = {value!r}; allowed: {', '.join(allowed)}")
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise WorkbenchError(f"convert: steps = {self.steps!r}; allowed: an integer of at least 1")
        if self.steps is not None and not QUANTIZERS[self.quantizer].trains:
            trained = ", ".join(name for name, method in QUANTIZERS.items() if method.trains)
            raise WorkbenchError(
                f"convert: steps are of quantizers that train ({trained}), not {self.quantizer}"
            )
        if self.calibration is None and QUANTIZERS[self.quantizer].needs:
            object.__setattr__(self, "calibration", CalibrationOptions())
        self._check_zero_points()

    def _check_zero_points(self) -> None:
        """A quantizer of zero-points refuses symmetric formats: say so before anything is read or written."""
        if not QUANTIZERS[self.quantizer].zero_points:
            return
        others = ", ".join(
            repr(name) for name in QUANTIZERS_OF_ONE_MATRIX if not QUANTIZERS[name].zero_points
        )
        given = {"format": self.format, "embedding": self.embedding, "lm_head": self.lm_head}
        given |= {f"overrides[{pattern!r}]": each for pattern, each in self.overrides.items()}
        for what, each in given.items():
            if each is not None and each.is_quantized and each.symmetric:
                raise WorkbenchError(
                    f"convert: {what} = {each} has no zero-points, which are what {self.quantizer} optimises; "
                    f"allowed: formats that are not symmetric, or another quantizer, such as {others}"
                )

    def to_json(self) -> dict[str, Any]:
        """For the provenance: everything that decides the stored bytes."""

        def form(chosen: WeightFormat | None) -> dict | None:
            return None if chosen is None else chosen.to_json()

        calibrated: dict[str, Any] = {}
        if self.calibration is not None:
            calibrated = {
                "calibration": asdict(self.calibration),
                "calibration_inputs": self.calibration_inputs,
                "steps": self.steps,
            }
        if self.calibration is not None or self.device != "cpu":
            calibrated["device"] = self.device
        return {
            "format": self.format.to_json(),
            "embedding": form(self.embedding),
            "lm_head": form(self.lm_head),
            "overrides": {pattern: each.to_json() for pattern, each in self.overrides.items()},
            "layout": self.layout,
            **calibrated,
        }

    def choose(self, name: str, shape: tuple[int, ...], model: Architecture) -> tuple[WeightFormat, str]:
        """The format of a tensor of a model, and why."""
        if len(shape) != 2:
            return WeightFormat("f32"), "one-dimensional: norms and biases stay f32"
        for pattern, each in self.overrides.items():
            if _matches(model, name, pattern):
                return each, self.reasons.get(pattern, f"override {pattern!r}")
        if name in model.routers():
            return WeightFormat("f32"), "a router, which decides where all else is computed: it stays f32"
        if name == model.embedding and self.embedding is not None:
            return self.embedding, "asked for the embedding"
        if name == model.lm_head and self.lm_head is not None:
            return self.lm_head, "asked for the LM head" + (
                ", tied to the embedding" if model.tied_embeddings else ""
            )
        return self.format, self.reason

    def check_overrides(self, names: Iterable[str], model: Architecture) -> None:
        """Raise WorkbenchError if a pattern matches none of the 2-D weights: it was meant to do something."""
        names = list(names)
        for pattern in self.overrides:
            if not any(_matches(model, name, pattern) for name in names):
                raise WorkbenchError(
                    f"convert: the override {pattern!r} matches no matrix; names look like {names[-1]!r} "
                    f"or {model.plan_name(names[-1])!r}"
                )


def _matches(model: Architecture, name: str, pattern: str) -> bool:
    """Whether a pattern means a matrix, by its name in the checkpoint or in the plan."""
    return fnmatchcase(name, pattern) or fnmatchcase(model.plan_name(name), pattern)
