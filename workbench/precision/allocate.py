"""`workbench.allocate`: a format for each group of matrices, measured, solved and verified; the command runs it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.named_texts import named_text
from eval.protocols import protocol as protocol_of
from eval.texts import Text, Tokens, encode
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import as_format
from workbench.models.families import architecture_of
from workbench.models.keys import shown
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer
from workbench.runtime.model import Model
from workbench.runtime.sampling import as_real

from .allocation import Allocation
from .joint import measure_joint
from .memory import fit_allocation
from .pareto import Pareto
from .sensitivity import sensitivity

#: Windows of a text that groups, and what was chosen, are measured on unless asked.
WINDOWS = 8


@dataclass(frozen=True)
class Target:
    """What an allocation must keep to; one of these. budget: bytes of all weights. bits: a weight, scales and norms
    counted. max_kl: predicted nats a token, with the fewest bytes. fit_memory: bytes of weights, cache (of max_tokens
    positions) and activations together. Raises WorkbenchError for none, for several, and for no number above 0."""

    budget: int | None = None
    bits: float | None = None
    max_kl: float | None = None
    fit_memory: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        targets = ("budget", "bits", "max_kl", "fit_memory")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            raise WorkbenchError(f"allocate: give one of {', '.join(targets)}; given: {found}")
        value = as_real(getattr(self, given[0]))
        if value is None or value <= 0:
            raise WorkbenchError(
                f"allocate: {given[0]} = {shown(getattr(self, given[0]))}; allowed: a finite number above 0"
            )

    def solve(self, front: Pareto, source: Any) -> Allocation:
        """The best allocation; WorkbenchError where there is none."""
        if self.budget is not None:
            return front.at(self.budget)
        if self.bits is not None:
            return front.at_bits(self.bits)
        if self.max_kl is not None:
            return front.at_kl(self.max_kl)
        assert self.fit_memory is not None
        return fit_allocation(front.table, source, self.fit_memory, max_tokens=self.max_tokens)


def allocate(  # many parameters: the options of a measurement, each of its own
    model: Any,
    text: str | Path | Text | Tokens = "calibration",
    *,
    budget: int | None = None,
    bits: float | None = None,
    max_kl: float | None = None,
    fit_memory: int | None = None,
    formats: Sequence[str | WeightFormat] | None = None,
    quantizer: str = "rtn",
    protocol: str = "disjoint-512",
    separator: str | None = None,
    max_windows: int = WINDOWS,
    table: str | Path | None = None,
    progress: bool = True,
) -> Allocation:
    """Choose a format for each group of matrices so that the least is lost within a budget, and measure the outcome.

        found = workbench.allocate("DIR", bits=5, protocol="disjoint-64", max_windows=2)
        m = workbench.quantize("DIR", found)

    model: an unquantized checkpoint, as `workbench.load` takes it. text: as in `workbench.perplexity`; by default the
    embedded calibration text. budget, bits, max_kl, fit_memory: one of them, as in `Target`. formats: candidates, such
    as ("int8", "int4/64"); by default the model's 16 bits, int8, int4 and int2. max_windows: of the text, to measure
    each group on, and then the choice. table: a file that keeps the measurement for other budgets, and from which a
    stopped one goes on. KL in nats a token, through the references in f32.

    The result has `.table()`, `.data()`, `.plot()` and `.save()`. Raises WorkbenchError for no target or several, for
    one that nothing meets, and for a quantized model; ProtocolError where text, protocol and model do not fit together.
    """
    target = Target(budget, bits, max_kl, fit_memory)
    source = model.source if isinstance(model, Model) else open_source(model)
    scheme = protocol_of(protocol).within(architecture_of(source.config).context_length)
    found = named_text(text)
    tokens = (
        found
        if isinstance(found, Tokens)
        else encode(load_tokenizer(source.tokenizer_path), found, scheme, separator=separator)
    )
    candidates = [as_format(each) for each in formats or ()]
    measured = sensitivity(
        source,
        tokens,
        scheme,
        formats=candidates or None,
        quantizer=quantizer,
        max_windows=max_windows,
        path=table,
        progress=progress,
    )
    chosen = target.solve(measured.pareto(), source)
    name = (tokens.text or {}).get("name", "text")
    joint = measure_joint(source, {"chosen": chosen}, tokens, scheme, max_windows=max_windows)
    return chosen.with_joint(f"calibration text {name}", joint["chosen"].figures())
