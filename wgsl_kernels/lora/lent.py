"""Rules over products to which adapters add, made from those over the products alone: the same composition, but that
each product takes `lora_x` and `lora_b` (`wgsl_kernels.lora.low_rank`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..composition import Facts, Match, Rule, Where, composed
from ..layout import INT8_STRIDES
from ..weights import is_quantized
from .low_rank import MOST_SLICED, slices_of

#: Storage buffers of the largest of these products: INT8 activations and integer weights with zero-points or offsets, a
#: bias, a residual, `lora_x` and `lora_b`. Browsers promise eight.
BUFFERS = 10
_STARTS = ("lora_second", "lora_third")
_PLACE = ("lora_first", "lora_part", *_STARTS)


def bound_together(facts: Facts, match: Match) -> bool:
    """Whether a product and what an adapter adds to it are one dispatch: an adapter binds so many buffers."""
    return facts.adapter.storage_buffers >= BUFFERS


class _Lending:
    """A recorder that hands `added` to products: in front of a rewriting to each `linear` of a group in its order,
    behind it to the one call that has a weight."""

    def __init__(self, recorder: Any, added: dict, places: dict, *, before: bool, down: dict | None = None):
        self._recorder, self._added, self._places, self._before = recorder, added, places, before
        self._down, self._part = down, 0

    def __getattr__(self, op: str) -> Callable:
        made = getattr(self._recorder, op)

        def call(**given):
            if self._before and op == "rms_norm" and self._down is not None:
                normed = made(**given)
                self._added["lora_x"] = self._recorder.lora_down(x=normed, **self._down)
                return normed
            if "weight" not in given or (op != "linear" and self._before):
                return made(**given)
            return made(**{**given, **self._added, **(self._next() if self._before else self._places)})

        return call

    def _next(self) -> dict:
        """Where the next matrix of the group stands in it; of a product alone where it says itself."""
        if self._places.keys() >= set(_PLACE):
            return self._places
        part, self._part = self._part, self._part + 1
        return {"lora_part": part, "lora_first": self._places[_STARTS[part - 1]] if part else 0}


def _lend(rule: Rule, *, single: bool, down: bool) -> Rule:
    """single: of one product, which may stand anywhere in a group. down: with the product of x and A, too."""
    plain = inspect.signature(rule.before).parameters
    own_state = () if "state" in plain else ("state",)
    operands = ("lora_a" if down else "lora_x", "lora_b", *own_state)
    places = _PLACE if single else _STARTS[: max(0, len(rule.stack) - 1)]
    params = ("lora_rank", "lora_rows", *places, "ranks" if down else "lora_slices")

    def made(function: Callable, *, before: bool) -> Callable:
        def lent(p, *given, **stated):
            more, given = dict(zip(operands, given, strict=False)), given[len(operands) :]
            own = {name: stated.pop(name) for name in params}
            by_name = dict(zip(list(plain)[1:], given, strict=False))
            added = {name: own[name] for name in ("lora_rank", "lora_rows")}
            added |= {"lora_b": more["lora_b"], "state": more.get("state", by_name.get("state"))}
            of_a = None
            if down:
                of_a = {"weight": more["lora_a"], "state": added["state"], "ranks": own["ranks"]}
                if not before:
                    weighed = {"x": by_name["x"], "norm": by_name["norm"]}
                    added["lora_x"] = p.norm_lora_slices(**weighed, **of_a)
                    added["lora_slices"] = stated.pop("lora_slices")
            else:
                added |= {"lora_x": more["lora_x"], "lora_slices": own["lora_slices"]}
            where = {name: own[name] for name in places}
            return function(_Lending(p, added, where, before=before, down=of_a), *given, **stated)

        own = params if before or not down else (*params, "lora_slices")
        lent.__signature__ = with_operands(inspect.signature(function), operands, own)
        return lent

    return replace(
        rule,
        name=f"{rule.name}_adapted",
        before=made(rule.before, before=True),
        after=made(rule.after, before=False),
        where=_both(rule.where, sliced=down),
        summary=f"{rule.summary.split(chr(10))[0].rstrip('.')}, with what adapters add.",
    )


def with_operands(
    signature: inspect.Signature, operands: Sequence[str], params: Sequence[str]
) -> inspect.Signature:
    """A function's signature with operands, which come first, since others may be left out, and parameters more."""
    first, *rest = signature.parameters.values()
    kinds = inspect.Parameter
    more = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in operands]
    return inspect.Signature([first, *more, *rest, *(kinds(name, kinds.KEYWORD_ONLY) for name in params)])


def _both(where: Where, *, sliced: bool) -> Where:
    """sliced: whether A x is made in slices, which share a workgroup's memory with the row."""

    def holds(facts: Facts, match: Match):
        if not bound_together(facts, match) or (sliced and match.params["ranks"] > MOST_SLICED):
            return False
        found = where(facts, match)
        if not sliced or found is False:
            return found
        slices = {"lora_slices": slices_of(match.shape("x")[1])}
        return slices if found is True else {**found, **slices}

    return holds


def lent(rule: Rule, *, single: bool = False) -> Rule:
    """The rule over products that take `lora_x` as it is. single: of one product, of any place in its group."""
    return _lend(rule, single=single, down=False)


def lent_behind_a_norm(rule: Rule, *, single: bool = False) -> Rule:
    """The rule that begins with a norm, with the product of what that gives and A (`lora_a`), which makes its own."""
    return _lend(rule, single=single, down=True)


def lent_in_int8(rule: Rule) -> Rule:
    """As `lent_behind_a_norm`, of a rule that rounds to INT8 behind its norm and gives the op of its name, with A of
    floats: what computes A x leaves the row in INT8 (`wgsl_kernels.linear.sliced_a8`)."""
    whole, op = lent_behind_a_norm(rule), rule.name.replace("norm_", "sliced_")
    signature = inspect.signature(whole.before)
    keyword = inspect.Parameter.KEYWORD_ONLY
    operands = [name for name, each in signature.parameters.items() if each.kind is not keyword][1:]

    def after(p, *values, **stated):
        given = dict(zip(operands, values, strict=True))
        weighed = {"x": given.pop("x"), "norm": given.pop("norm"), "weight": given.pop("lora_a")}
        own = {name: stated.pop(name) for name in ("ranks", "stride")}
        inner, words, scales = p.norm_lora_slices_a8(**weighed, state=given["state"], **own)
        weight = "+".join(given.pop(name) for name in rule.stack)
        row = {"x": words, "x_scales": scales, "lora_x": inner}
        return getattr(p, op)(weight=weight, **row, **given, **stated)

    def where(facts: Facts, match: Match):
        found = False if is_quantized(match.label("lora_a")) else whole.where(facts, match)
        if not isinstance(found, dict):
            return found
        stride = INT8_STRIDES[match.label(rule.stack[0])]
        return {**found, "stride": stride, "columns": match.shape("x")[1]}

    after.__signature__ = with_operands(signature, (), ("lora_slices", "stride", "columns"))
    return replace(whole, name=f"{op}_adapted", after=after, where=where)


def composed_with_adapters(rule: Rule, *, single: bool = False, **how) -> Callable:
    """`composed` of a rule that begins with a norm, where `lora_b` is given with what adapters add; how: as there.

    `lora_x` then lacks the norm's factor 1 / rms, as the product's own sums do (`norm_lora_down`).
    """
    plain, added = composed(rule, **how), composed(lent(rule, single=single), **how)

    def reference(**given):
        if given.get("lora_b") is None:
            return plain(**given)
        x = given["x"]
        rms = torch.sqrt(x.pow(2).mean(-1, keepdim=True) + given["eps"])
        return added(**{**given, "lora_x": given["lora_x"].to(x.dtype) / rms})

    reference.__doc__ = rule.summary
    return reference
