"""The one error of the file formats."""

from __future__ import annotations

from workbench.errors import shortened


class FormatError(ValueError):
    """Something that is stored, or about to be stored, breaks a rule of the format.

    `file`, `tensor` and `field` say where, as far as it is known; the message names all that are given (long ones
    `shortened`):

        model.wgpu: tensor 'lm_head.weight': field 'parts[0].planes.quants.length': 12 bytes, but ... need
        4096
    """

    def __init__(
        self, why: str, *, file: object = None, tensor: str | None = None, field: str | None = None
    ) -> None:
        self.why = why
        self.file = None if file is None else str(file)
        self.tensor = tensor
        self.field = field
        where = []
        if self.file is not None:
            where.append(self.file)
        if tensor is not None:
            where.append(f"tensor {tensor!r}")
        if field is not None:
            where.append(f"field {field!r}")
        super().__init__(shortened(": ".join([*where, why])))

    def at(self, *, file: object = None, tensor: str | None = None, field: str | None = None) -> FormatError:
        """The same error with the places that were not known yet; `field` is put in front of a known one."""
        if field is not None and self.field is not None:
            field = f"{field}.{self.field}"
        return FormatError(
            self.why,
            file=self.file if self.file is not None else file,
            tensor=self.tensor if self.tensor is not None else tensor,
            field=field if field is not None else self.field,
        )
