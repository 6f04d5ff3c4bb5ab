"""Finding out in another process whether a WGSL module ends, before it runs in this one.

Nothing can stop a dispatch: one that never ends keeps a software adapter, and this process with it, busy for good, and
on a GPU it costs the device. A process can be ended.
"""

from __future__ import annotations

import atexit
import math
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from workbench.dtypes import ELEMENT_BYTES
from workbench.known import known
from workbench.runtime.device import Device
from workbench.runtime.pipelines import Compiled

from .child import Child, ChildEndedError, ChildError, ChildTimeoutError

PROCESS = Path(__file__).with_name("trial_process.py")
#: Seconds that a process may take to open its device.
OPENING = 120.0

#: One trial at a time: a cell and a widget's thread may ask for one each.
_lock = threading.Lock()
_child: Child | None = None
_passed: set[tuple] = set()


def trial(
    compiled: Compiled, arrays: Mapping[str, np.ndarray], device: Device, budget: float
) -> ChildEndedError | ChildTimeoutError | None:
    """Run a module once on an adapter like `device`'s; what went wrong, or None.

    arrays: contents of the ports that are given. budget: seconds that compiling and running may take. What passed once
    is not tried again. Errors that the process could report are none of this function's: the module will raise
    them here too.
    """
    key = (compiled.module.digest, compiled.grid, tuple((n, a.nbytes) for n, a in sorted(arrays.items())))
    if key in _passed:
        return None
    wishes = {
        "device": {
            "adapter": device.wanted,
            "subgroups": "subgroup" in device.features,
            "f16": "shader-f16" in device.features,
        }
    }
    with _lock, tempfile.TemporaryDirectory(prefix="workbench-trial-") as folder:
        request = {
            "code": compiled.module.code,
            "grid": list(compiled.grid),
            "buffers": _buffers(compiled, arrays, Path(folder)),
        }
        try:
            _process().ask(OPENING, **wishes)
            _process().ask(budget, **wishes, **request)
        except (ChildEndedError, ChildTimeoutError) as error:
            return error
        except ChildError:
            return None
    _passed.add(key)
    return None


def _buffers(compiled: Compiled, arrays: Mapping[str, np.ndarray], folder: Path) -> list[dict]:
    """The module's bindings, the contents of those that are given in files."""
    kernel, context = compiled.kernel, compiled.context
    numbers, found = kernel.bindings(), []
    for port, kind in context.types.items():
        writes = "storage" if kernel.writable(port) else "read-only-storage"
        file = None
        if port in arrays:
            file, size = str(folder / port), arrays[port].nbytes
            np.ascontiguousarray(arrays[port]).tofile(file)
        else:
            size = math.prod(kernel.output_shape(port, context.sizes)) * ELEMENT_BYTES[kind]
        uniform = kernel.ports[port].uniform
        found.append(
            {
                "binding": numbers[port],
                "type": "uniform" if uniform else writes,
                "bytes": size,
                "file": file,
            }
        )
    return found


def _process() -> Child:
    """The process for trials; a new one where the last one has ended."""
    global _child
    if _child is None or not _child.alive:
        if _child is None:
            atexit.register(lambda: known(_child).close())
        _child = Child(PROCESS)
    return _child
