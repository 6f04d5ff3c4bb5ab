"""One allocation measured as a whole: what it loses on a text, and how fast it decodes. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.protocols import Protocol, protocol
from eval.texts import Tokens
from workbench.model_bench.speed import Speed, measure_speed
from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.precision.allocation import Allocation
from workbench.precision.joint import Joint, measure_joint
from workbench.precision.meter import Progress
from workbench.precision.requantized import Requantized
from workbench.runtime.loading import load

#: Tokens fed before the decoded ones (fewer where the model's context is shorter), tokens decoded, and how often.
PROMPT, DECODED, REPETITIONS = 64, 32, 5
TEXT = "text"


@dataclass(frozen=True, eq=False)
class Measured:
    """allocation: with the joint figures of `text`, the name of what was scored. joint: its tokens, for paired
    differences. speed: through the WGSL kernels where there is an adapter, else through the references; None if it
    was not asked for."""

    allocation: Allocation
    text: str
    joint: Joint = field(repr=False)
    speed: Speed | None = None

    @property
    def figures(self) -> dict[str, float]:
        """As of `Joint.figures`."""
        return self.allocation.joint[self.text]

    @property
    def ppl_se(self) -> float:
        """Standard error of the perplexity against the float model's on the same tokens: PPL times that of the
        paired ln(PPL / PPL of the float model), by the delta method."""
        return self.figures["ppl"] * self.figures["ln_ratio_se"]

    @property
    def ppl_float(self) -> float:
        """Perplexity of the float model on the same tokens."""
        return self.figures["ppl"] / float(np.exp(self.figures["ln_ratio"]))

    def to_row(self) -> dict[str, Any]:
        """What a table says: target, bytes, bits, predicted_kl, the figures, and decode rates in tokens/s."""
        rate = self.speed.decode if self.speed else None
        return {
            "target": self.allocation.target,
            "bytes": self.allocation.nbytes,
            "bits": self.allocation.bits_per_weight,
            "predicted_kl": self.allocation.predicted_kl,
            "text": self.text,
            **self.figures,
            "ppl_se": self.ppl_se,
            "tokens_per_second": rate.median if rate else None,
            "lowest": rate.spread[0] if rate else None,
            "highest": rate.spread[1] if rate else None,
            "device": self.speed.device if self.speed else None,
        }


def measure(
    source,
    allocation: Allocation,
    tokens: Tokens,
    scheme: str | Protocol = "disjoint-512",
    *,
    max_windows: int | None = None,
    speed: bool = True,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Score a text with all groups quantized at once, paired with the float model, and decode with the same weights.

    source: the unquantized checkpoint (folder, hub id or opened). speed: whether tokens a second are measured too.
    progress: called as progress(windows done, windows); what it raises ends the measurement. Losses are those of the
    PyTorch references in f32. Errors as in `sensitivity`, and WorkbenchError for another model's allocation.
    """
    source = open_source(source)
    allocation.check_source(source)
    made: dict = {}
    options = {"max_windows": max_windows, "threads": threads, "progress": progress, "made": made}
    joint = measure_joint(source, {"it": allocation}, tokens, protocol(scheme), **options)["it"]
    text = (tokens.text or {}).get("name", TEXT)
    found = None
    if speed:
        room = architecture_of(source.config).context_length - DECODED
        prompt = [int(token) for token in tokens.ids[: max(1, min(PROMPT, room))]]
        requantized = Requantized(source, allocation.formats, allocation.quantizer, made)
        model = load(requantized, max_tokens=len(prompt) + DECODED)
        found = measure_speed(model, prompt, decode_tokens=DECODED, repetitions=REPETITIONS)
    return Measured(allocation.with_joint(text, joint.figures()), text, joint, found)
