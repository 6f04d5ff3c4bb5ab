"""What matrices of a plan read, and what writes it: fused kernels, calibration and formats follow from that.

Matrices that read one input are uploaded as one stack, have one Hessian, and get one format.
"""

from __future__ import annotations

from .plan import Call, Plan


def read_together(plan: Plan) -> dict[str, list[str]]:
    """Buffer that is read -> the matrices that are looked up or multiplied with it, in the order of the plan.

    A matrix stands where it is read first: a tied embedding with the token ids.
    """
    found: dict[str, list[str]] = {}
    placed: set[str] = set()
    for call in plan.calls:
        matrix = call.inputs.get("weight")
        if matrix is None or matrix not in plan.weights or matrix in placed:
            continue
        found.setdefault(call.inputs["x" if "x" in call.inputs else "ids"], []).append(matrix)
        placed.add(matrix)
    return found


def writer(plan: Plan, name: str) -> Call | None:
    """The call that writes an activation, or last wrote a cache; None for what no call writes."""
    return plan.writers.get(name)


def readers(plan: Plan, name: str) -> list[Call]:
    """The calls that read a buffer."""
    return plan.readers.get(name, [])
