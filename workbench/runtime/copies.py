"""The beginning of one sequence of a cache as that of another: on a device without the host, or in tensors.

Planes of a layer are [sequences, 2, heads, slots, ...] (`Int8Cache` has one of words and one of scales), so what a few
positions hold lies in a piece for each head. Where a layer's cache is a ring, slots say nothing without how far the
sequence has come: all of them are copied then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from workbench.dtypes import ELEMENT_BYTES
from workbench.plan.plan import Plan, resolve, step_sizes

from .cache import Cache

if TYPE_CHECKING:  # the references run without a device
    import wgpu

    from .device import Device

#: From this share of the slots on a sequence is copied in one piece a plane: more bytes, and few commands.
WHOLE = 0.5


@dataclass(frozen=True)
class Plane:
    """A plane of a layer's cache. heads: pieces that a sequence has; slots of each, with `slot_bytes`. ring: whether
    slots are used again."""

    name: str
    heads: int
    slots: int
    slot_bytes: int
    ring: bool

    def pieces(self, count: int) -> tuple[int, int]:
        """How many pieces of a sequence hold its first `count` positions, and the bytes of each."""
        if self.ring or count >= WHOLE * self.slots:
            return 1, self.heads * self.slots * self.slot_bytes
        return self.heads, count * self.slot_bytes


def planes_of(plan: Plan, cache: Cache) -> list[Plane]:
    """The planes of all layers' caches."""
    found, sizes = [], step_sizes(1, cache.capacity, sequences=cache.sequences)
    for buffer in plan.of_kind("cache"):
        for name, shape, dtype in buffer.planes().values():
            _, sides, heads, slots, *rest = resolve(shape, sizes)
            slot_bytes = math.prod(rest) * ELEMENT_BYTES[dtype]
            found.append(Plane(name, sides * heads, slots, slot_bytes, slots < cache.capacity))
    return found


def copy_on_device(
    device: Device,
    buffers: Mapping[str, wgpu.GPUBuffer],
    planes: Iterable[Plane],
    source: int,
    target: int,
    count: int,
) -> None:
    """The first `count` positions of a sequence. WebGPU copies no buffer to itself, so planes go by way of another
    one. Heads have an even width (pairs are rotated), so that pieces are whole words. Raises `OutOfMemoryError`."""
    planes = list(planes)
    widest = max(math.prod(plane.pieces(count)) for plane in planes)
    with device.lock:
        between = device.buffer(widest, label="a copy between sequences")
        try:
            with device.errors():
                encoder = device.wgpu.create_command_encoder()
                for plane in planes:
                    pieces, nbytes = plane.pieces(count)
                    stride = plane.heads * plane.slots * plane.slot_bytes // pieces
                    buffer = buffers[plane.name]
                    for n in range(pieces):
                        at = (source * pieces + n) * stride
                        encoder.copy_buffer_to_buffer(buffer, at, between, n * nbytes, nbytes)
                    for n in range(pieces):
                        at = (target * pieces + n) * stride
                        encoder.copy_buffer_to_buffer(between, n * nbytes, buffer, at, nbytes)
                device.wgpu.queue.submit([encoder.finish()])
        finally:
            device.release(between)


def copy_tensors(
    tensors: Mapping[str, torch.Tensor], planes: Iterable[Plane], source: int, target: int, count: int
) -> None:
    """The same of tensors, of those that there are yet."""
    for plane in planes:
        if plane.name in tensors:
            held = slice(None) if plane.ring else slice(count)
            tensors[plane.name][target, :, :, held] = tensors[plane.name][source, :, :, held]
