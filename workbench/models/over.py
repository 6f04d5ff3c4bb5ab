"""A source over another one, which reads like it but for something."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Over:
    """Reads like a source but for what subclasses say. notes: for people, behind the source's own."""

    def __init__(self, source: Any, *notes: str):
        self.source, self._more = source, notes
        self.path: Path = source.path

    @property
    def config(self) -> dict[str, Any]:
        return self.source.config

    @property
    def tokenizer_path(self) -> Path:
        return self.source.tokenizer_path

    def __getattr__(self, name: str) -> Any:
        if name in ("source", "lora", "loras", "_more"):  # asked for before they are there: of a copy
            raise AttributeError(name)
        return getattr(self.source, name)

    def weight_files(self) -> list[Path]:
        """Those of the source."""
        return self.source.weight_files()

    def names(self) -> list[str]:
        """Tensors of the source alone."""
        return self.source.names()

    @property
    def notes(self) -> tuple[str, ...]:
        return (*getattr(self.source, "notes", ()), *self._more)
