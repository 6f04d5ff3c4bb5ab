"""What can be known of cells before any of them runs: that text, protocol, model and options fit each other.

A cell that could only fail should not fail after hours, when its turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable

from eval import inputs
from eval.protocols import protocol
from eval.texts import Tokens, encode
from workbench.convert.options import ConvertOptions
from workbench.convert.suited import check_once
from workbench.errors import SweepError, WorkbenchError
from workbench.formats.errors import FormatError
from workbench.models.families import architecture_of
from workbench.models.source import open_source, require_floats
from workbench.models.tokenizer import load_tokenizer

from .cells import Cell


class _Model:
    """A cell's unconverted model, as far as it is looked at without its weights."""

    def __init__(self, path: str) -> None:
        source = open_source(path, verify=False)
        self.architecture = config = architecture_of(source.config)
        self.context_length, self.vocab_size = config.context_length, config.vocab_size
        self.tokenizer = load_tokenizer(source.tokenizer_path)
        shapes = {name: source.describe(name)[0] for name in source.names()}
        self.matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
        self.source = source


class Checks:
    """Each model and text is looked at once, however many cells have it."""

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}
        self._tokens: dict[tuple, Tokens] = {}
        self._options: set[tuple[str, str]] = set()

    def __call__(self, cells: Iterable[Cell]) -> None:
        """Raises SweepError, naming the cell: for windows beyond the model's context or larger than the text, a
        separator that does not occur, ids beyond the vocabulary, overrides that match nothing, a format for
        weights that are quantized already."""
        for cell in cells:
            try:
                self._check(cell)
            except (WorkbenchError, FormatError) as error:
                raise SweepError(f"the cell {cell.label}: {error}") from error

    def _check(self, cell: Cell) -> None:
        model = self._models.get(cell.path)
        if model is None:
            model = self._models[cell.path] = _Model(cell.path)
        scheme = inputs.fitting(protocol(cell.protocol), {"model": model})
        tokens = self._encoded(cell, model)
        starts = (0,) if tokens.starts is None else tokens.starts
        windows = scheme.windows(tokens.ids, bos=tokens.bos, starts=starts)
        inputs.known_ids(windows[: cell.max_windows], model.vocab_size)
        if cell.options is not None and (cell.path, repr(cell.options)) not in self._options:
            self._options.add((cell.path, repr(cell.options)))
            options: ConvertOptions = cell.convert_options()
            options.check_overrides(model.matrices, model.architecture)
            if options.calibration is not None:
                require_floats(model.source, f"{options.quantizer} with calibration quantizes the model")
            asked = {
                name: options.choose(name, shape, model.architecture)[0]
                for name, shape in model.matrices.items()
            }
            check_once(model.source, asked)

    def _encoded(self, cell: Cell, model: _Model) -> Tokens:
        place = cell.path, cell.text, protocol(cell.protocol).kind
        if place not in self._tokens:
            text = cell.text.load()
            if cell.text.separator is not None and cell.text.separator not in text.content:
                raise SweepError(f"separator {cell.text.separator!r} does not occur in text {text.name}")
            self._tokens[place] = encode(model.tokenizer, text, cell.protocol, separator=cell.text.separator)
        return self._tokens[place]
