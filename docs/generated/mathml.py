"""Formulas as MathML, which browsers show by themselves: a page then loads no script from anywhere for them."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

log = logging.getLogger(__name__)


def written(writer: Any, node: nodes.Element, *, as_block: bool) -> None:
    """Put a formula into the page; LaTeX that docutils does not know is a warning, and stays LaTeX."""
    try:
        writer.body.append(tex2mathml(node.astext(), as_block=as_block))
    except MathError as error:
        log.warning("%s in the formula %r", error, node.astext(), location=node)
        writer.body.append(f"<code>{writer.encode(node.astext())}</code>")
    raise nodes.SkipNode


def inline(writer: Any, node: nodes.math) -> None:
    written(writer, node, as_block=False)


def block(writer: Any, node: nodes.math_block) -> None:
    written(writer, node, as_block=True)


def setup(app: Any) -> dict[str, bool]:
    """Registers the renderer "mathml" for HTML."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
