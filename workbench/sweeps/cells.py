"""A cell: one model, converted in one way, scored on one text under one protocol; plain data that a worker can take.

    Cell("checkpoint", "disjoint-512", TextSource("stories.txt", separator="<|endoftext|>"), {"format": "int4/64"})

A cell without options is the model as it is; the others of the same model, text and protocol are paired with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from eval.named_texts import EMBEDDED as CALIBRATION_TEXTS
from eval.protocols import protocol
from eval.texts import Text, load_dataset_text, load_text
from workbench.convert.options import ConvertOptions
from workbench.errors import SweepError, WorkbenchError
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import parse_format
from workbench.known import known
from workbench.models.blocks import ACTIVATIONS

BACKENDS = ("torch", "wgpu")
#: The model that ships with the package, and its held-out text, by this name instead of a path.
EMBEDDED = "embedded"
#: Format of a cell without options, for tables.
UNCONVERTED = "as it is"
# Fields of ConvertOptions that a sweep sets itself.
_OWN_FIELDS = ("format", "overwrite")
_FORMAT_FIELDS = ("format", "embedding", "lm_head")


def option_names() -> tuple[str, ...]:
    """Options of a conversion that a cell may set beside its format."""
    return tuple(f.name for f in dataclasses.fields(ConvertOptions) if f.name not in _OWN_FIELDS)


def convert_options(options: Mapping[str, Any]) -> ConvertOptions:
    """ConvertOptions from plain values: formats are written as `parse_format` reads them, "int4/64".

    Whatever fields ConvertOptions has are taken. Raises SweepError for an unknown option, and what ConvertOptions
    and `parse_format` raise.
    """
    unknown = [name for name in options if name != "format" and name not in option_names()]
    if unknown:
        raise SweepError(f"option {unknown[0]!r} is unknown; allowed: {', '.join(option_names())}")
    values = dict(options)
    for name in _FORMAT_FIELDS:
        if values.get(name) is not None:
            values[name] = _format(name, values[name])
    if "overrides" in values:
        if not isinstance(values["overrides"], Mapping):
            raise SweepError(f"overrides = {values['overrides']!r}; allowed: a table of pattern = format")
        values["overrides"] = {
            pattern: _format(f"overrides.{pattern}", form) for pattern, form in values["overrides"].items()
        }
    _require_types(ConvertOptions, options)
    for name, kind in _nested_options().items():
        if isinstance(values.get(name), Mapping):
            try:
                _require_types(kind, values[name], f"{name}.")
                values[name] = kind(**values[name])
            except TypeError as error:
                raise SweepError(f"{name} = {values[name]!r}: {error}") from error
    try:
        return ConvertOptions(**values)
    except (TypeError, AttributeError) as error:  # a value of a type that the field does not take
        raise SweepError(f"options {dict(options)!r}: {error}") from error


_PLAIN = {str: "a string", int: "an integer", bool: "true or false", dict: "a table"}


def _require_types(kind: type, values: Mapping[str, Any], where: str = "") -> None:
    """Raise SweepError for a value that is not of the type of its field in a dataclass of options."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        wanted = hints.get(name)
        kinds = [dict if get_origin(each) is Mapping else each for each in (get_args(wanted) or (wanted,))]
        if get_origin(wanted) is Mapping or any(dataclasses.is_dataclass(each) for each in kinds):
            kinds = [dict]
        known = [each for each in kinds if each in _PLAIN]
        if name not in _FORMAT_FIELDS and known and type(value) not in known:
            allowed = " or ".join(_PLAIN[each] for each in known)
            raise SweepError(f"{where}{name} = {value!r}; allowed: {allowed}")


def with_text_files(options: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """The options, with a `text` in one of their tables, if it is no embedded one, as a path from `folder`."""
    found = dict(options)
    for name, value in options.items():
        text = value.get("text") if isinstance(value, Mapping) else None
        if folder and isinstance(text, str) and text not in CALIBRATION_TEXTS:
            found[name] = {**value, "text": str((folder / Path(text).expanduser()).resolve())}
    return found


def _nested_options() -> dict[str, type]:
    """Fields of ConvertOptions that are dataclasses of options themselves, written as tables."""
    nested = {}
    for name, hint in get_type_hints(ConvertOptions).items():
        kinds = [kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)]
        if kinds and kinds[0] is not WeightFormat:
            nested[name] = kinds[0]
    return nested


def _format(name: str, text: Any):
    if not isinstance(text, str):
        raise SweepError(f"{name} = {text!r}; allowed: a format as text, such as 'int4/64' or 'f16'")
    try:
        return parse_format(text)
    except (WorkbenchError, FormatError) as error:
        raise SweepError(f"{name} = {text!r}: {error}") from error


@dataclass(frozen=True)
class TextSource:
    """Where a text comes from: a file, `EMBEDDED`, or (dataset=True) a dataset's short name.

    separator: what stands between documents, None for none or the text's own.
    """

    location: str
    separator: str | None = None
    dataset: bool = False

    def load(self) -> Text:
        """Raises ProtocolError where it cannot be read."""
        if self.dataset:
            return load_dataset_text(self.location)
        if self.location == EMBEDDED:
            from workbench.assets import evaluation_text

            return load_text(evaluation_text())
        return load_text(self.location)


@dataclass(frozen=True)
class Cell:
    """Checked when made; raises SweepError, ProtocolError, WorkbenchError or FormatError.

    model        folder or hub id, or `EMBEDDED`
    protocol     by name, see `eval.protocols`
    options      of the conversion, plain values ("format" and fields of ConvertOptions); None: the model as it is
    max_windows  score only the first so many; None for all
    backend      "torch" (the references, anywhere the same) or "wgpu" (the kernels; a device's one cell at a time)
    dtype        of activations
    paired       compare with the cell of the unconverted model: paired change, KL, same top-1
    baseline_dtype  of the activations of that cell
    speed        measure tokens a second too
    name         of the model, for tables; default the folder's
    """

    model: str
    protocol: str
    text: TextSource
    options: Mapping[str, Any] | None = None
    max_windows: int | None = None
    backend: str = "torch"
    dtype: str = "f32"
    paired: bool = True
    speed: bool = False
    name: str = field(default="", compare=False)
    baseline_dtype: str = "f32"

    def __post_init__(self) -> None:
        scheme = protocol(self.protocol)
        if self.text.separator is not None and not scheme.takes_separator:
            raise SweepError(
                f"protocol {self.protocol!r} takes no separator; allowed: disjoint-L, hf-strided-L-S"
            )
        types = tuple(ACTIVATIONS)
        for key, allowed in (("backend", BACKENDS), ("dtype", types), ("baseline_dtype", types)):
            if getattr(self, key) not in allowed:
                raise SweepError(f"{key} = {getattr(self, key)!r}; allowed: {', '.join(allowed)}")
        if self.max_windows is not None and (type(self.max_windows) is not int or self.max_windows < 1):
            raise SweepError(f"max_windows = {self.max_windows!r}; allowed: an integer of at least 1")
        if self.options is not None:
            if "format" not in self.options:
                raise SweepError("the options of a conversion name no format")
            object.__setattr__(self, "options", dict(self.options))
            self.convert_options()
        if not self.name:
            object.__setattr__(self, "name", Path(self.model).name)

    def convert_options(self) -> ConvertOptions:
        """Only of a cell that has options."""
        return convert_options(known(self.options))

    @property
    def path(self) -> str:
        """What `workbench.load` takes for the unconverted model."""
        if self.model != EMBEDDED:
            return self.model
        from workbench.assets import demo_model_path

        return str(demo_model_path())

    @property
    def format(self) -> str:
        return UNCONVERTED if self.options is None else str(self.convert_options().format)

    @property
    def quantizer(self) -> str:
        """With the options that differ from the default and are not the format's: `rtn embedding=f32`."""
        if self.options is None:
            return ""
        extras = {key: value for key, value in self.options.items() if key not in ("format", "quantizer")}
        named = self.options.get("quantizer", "rtn") if self.convert_options().format.is_quantized else ""
        return " ".join([named, *(f"{key}={_brief(value)}" for key, value in extras.items())]).strip()

    @property
    def text_name(self) -> str:
        return Path(self.text.location).name

    @property
    def label(self) -> str:
        parts = [self.name, self.format, self.quantizer, self.protocol, self.text_name]
        return " · ".join(part for part in parts if part)

    @property
    def baseline(self) -> Cell | None:
        """The cell that this one is paired with, None for one that is compared with nothing."""
        if self.options is None or not self.paired:
            return None
        return dataclasses.replace(self, options=None, dtype=self.baseline_dtype)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cell:
        return cls(**{**values, "text": TextSource(**values["text"])})


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}={_brief(item)}" for key, item in value.items()) + "}"
    return str(value)
