"""Names of perplexity protocols: how each kind writes its own, and what a name says.

Nothing heavy is imported, so that the command line can list them. What the windows are: `eval.protocols`.
"""

from __future__ import annotations

import re

LM_EVAL = "lm-eval-wikitext"
#: Kind -> how its names are written, L standing for the tokens of a window and S for what it is moved by.
FORMS: dict[str, tuple[str, ...]] = {
    "disjoint": ("disjoint-L",),
    "wikitext2-gptq": ("wikitext2-gptq-L",),
    "hf-strided": ("hf-strided-L-S",),
    "llamacpp": ("llamacpp-L",),
    LM_EVAL: (LM_EVAL, f"{LM_EVAL}-L"),
}
LISTED = ", ".join(form for forms in FORMS.values() for form in forms)
ALLOWED = (
    f"{LISTED} (L: tokens a window, at least 2, of llamacpp even; S: 1 to L; for example disjoint-512, "
    "wikitext2-gptq-2048, hf-strided-1024-512)"
)


def _pattern(form: str) -> re.Pattern:
    number = r"-(?P<{}>[1-9]\d*)"
    return re.compile(form.replace("-L", number.format("L")).replace("-S", number.format("S")))


_PATTERNS = [(kind, _pattern(form)) for kind, forms in FORMS.items() for form in forms]


def parse(name: object) -> tuple[str, int | None, int | None] | None:
    """Kind, length and stride of a name, the length where there is no stride, or None for no protocol's name."""
    for kind, pattern in _PATTERNS:
        if match := pattern.fullmatch(name) if isinstance(name, str) else None:
            found = {label: int(number) for label, number in match.groupdict().items()}
            length = found.get("L")
            return kind, length, found.get("S", length)
    return None
