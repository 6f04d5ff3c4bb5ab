"""What a study takes from the model it is about: windows, prompts, blocks, and a folder that no other model shares.

Studies are written for some model and tried on others. What does not fit another one is cut to what does, and said.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.protocols import Protocol, protocol
from workbench.errors import ProtocolError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.model_bench.measure import Settings
from workbench.models.families import architecture_of
from workbench.models.source import open_source, require_floats

#: Bytes of a weight file that tell it from others: so many pieces of it, evenly spaced.
PIECES, PIECE = 32, 1 << 16


def fitted_protocol(name: str | Protocol, context: int) -> tuple[Protocol, str]:
    """A protocol with windows that a context holds, and what was changed, empty if nothing.

    Raises ProtocolError for a name that is none, and for a context that holds no window at all.
    """
    asked = protocol(name)
    if context < 2:
        raise ProtocolError(f"a context of {context} token(s) holds no window: the least has 2")
    fitting = asked.within(context)
    if asked.length in (None, fitting.length):
        return fitting, ""
    return fitting, f"{fitting} in place of {asked}: the model's context is {context} tokens"


class Study:
    """One model under study: what is asked for, cut to what fits it, and a folder that no other shares.

        study = workbench.Study("DIR", "accuracy", "OUT")
        protocol, count = study.protocol("disjoint-512"), study.tokens(256)
        print(study)

    checkpoint: a folder, a hub id or an opened source; name: of the study; runs: the folder of all studies. `source` is
    the opened checkpoint, `config` its configuration, `folder` where the study writes: `runs`, the study's name, and a
    name of the model's with a hash of what it is made of. `notes` says what did not fit the model. quantizes: whether
    the study quantizes the model, which then has to be in floats; one that runs it alone takes a converted model too.
    Raises what opening a checkpoint raises (CheckpointError, FormatError, UnsupportedModelError), and CheckpointError
    for a quantized model in a study that quantizes.
    """

    def __init__(self, checkpoint: Any, name: str, runs: str | Path = "runs", *, quantizes: bool = False):
        self.source = open_source(checkpoint)
        if quantizes:
            require_floats(self.source, f"the study {name!r} quantizes the model")
        self.config = architecture_of(self.source.config)
        self.folder = Path(runs) / name / f"{_label(checkpoint, self.source)}-{fingerprint(self.source)[:8]}"
        self.notes: list[str] = []

    def _note(self, text: str) -> None:
        if text and text not in self.notes:
            self.notes.append(text)

    def protocol(self, name: str) -> str:
        """The name of a protocol with windows that the model's context holds."""
        found, note = fitted_protocol(name, self.config.context_length)
        self._note(note)
        return found.name

    def tokens(self, wanted: int, after: int = 0) -> int:
        """So many tokens, or as many as the context holds with `after` more behind them; at least 1."""
        found = max(1, min(wanted, self.config.context_length - after))
        if found < wanted:
            behind = f" with {after} after them" if after else ""
            self._note(
                f"{found} tokens{behind} in place of {wanted}: the context is {self.config.context_length}"
            )
        return found

    def settings(self, wanted: Settings) -> Settings:
        """Of a measurement (`workbench.model_bench.measure`): its windows and its prompt fit the context."""
        after = max(wanted.decode_tokens, wanted.stream_tokens)
        prompt = self.tokens(wanted.prompt_tokens, after)
        return replace(wanted, scheme=self.protocol(wanted.scheme), prompt_tokens=prompt)

    def formats(self, wanted: Sequence[WeightFormat]) -> list[WeightFormat]:
        """Those whose blocks are no wider than the narrowest row of a matrix: a wider one would store padding."""
        kept = []
        for fmt in wanted:
            if fmt.is_quantized and _asked(fmt) and (fmt.block_size or 0) > max(self.narrowest, 32):
                self._note(f"without {fmt}: the narrowest rows have {self.narrowest} weights")
            else:
                kept.append(fmt)
        return kept

    def blocks(self, wanted: Sequence[int]) -> list[int]:
        """Those block sizes that are no wider than the narrowest row of a matrix, at least the least of them."""
        kept = [size for size in wanted if size <= max(self.narrowest, min(wanted))]
        if len(kept) < len(wanted):
            self._note(
                f"blocks of {', '.join(map(str, kept))} only: the narrowest rows have {self.narrowest} weights"
            )
        return kept

    @cached_property
    def narrowest(self) -> int:
        """Weights of the narrowest row of a matrix."""
        shapes = (self.source.describe(name)[0] for name in self.source.names())
        return min(shape[1] for shape in shapes if len(shape) == 2)

    @property
    def dtype(self) -> str:
        """What the embedding is stored as, and in most checkpoints everything: "f16", "bf16", "f32"."""
        return str(self.source.describe(self.config.embedding)[1])

    @property
    def middle_layer(self) -> int:
        """Index of the layer in the middle, of an even number the first of both."""
        return (self.config.layers - 1) // 2

    def __str__(self) -> str:
        c = self.config
        what = (
            f"{self.source.path.name}: {c.layers} layers, hidden {c.hidden_size}, context {c.context_length}"
        )
        return "\n".join(
            [f"{what}; results in {self.folder.as_posix()}", *(f"- {note}" for note in self.notes)]
        )


def _asked(fmt: WeightFormat) -> bool:
    """Whether a block size was asked for: the default of a dtype is part of what it is."""
    return fmt != WeightFormat(fmt.dtype)


def fingerprint(source: Any) -> str:
    """A hash (hex) that tells a source from any other model, without reading all of it: of the manifest that seals a
    converted model, else of the configuration and, of each weight file, its name, size and pieces throughout."""
    if isinstance(source, StoredModel):
        return hashlib.sha256((Path(source.path) / "manifest.json").read_bytes()).hexdigest()
    digest = hashlib.sha256(json.dumps(source.config, sort_keys=True).encode())
    for file in source.weight_files():
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as opened:
            for at in range(PIECES):
                opened.seek(max(0, (size - PIECE) * at // (PIECES - 1)))
                digest.update(opened.read(PIECE))
    return digest.hexdigest()


def _label(checkpoint: Any, source: Any) -> str:
    """A name for a folder: of the checkpoint as it was given (a hub's snapshots are named by hashes)."""
    given = (
        checkpoint if isinstance(checkpoint, str) and not Path(checkpoint).exists() else source.path.resolve()
    )
    return re.sub(r"[^\w.-]+", "-", Path(str(given)).name).strip(".-") or "model"
