"""The process that runs a WGSL module once for `trial`: one that hangs or crashes takes no other work with it.

A script of its own, not to be imported: it reads a JSON object a line from stdin and answers each with one, {"value":
...} or {"error": "..."}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import wgpu

from workbench.runtime.device import Device, open_device


def run(device: Device, code: str, grid: list[int], buffers: list[dict]) -> None:
    """Dispatch once and wait. A buffer: binding, type, bytes, and the file with its contents if it has any."""
    layout = device.wgpu.create_bind_group_layout(
        entries=[
            {
                "binding": each["binding"],
                "visibility": wgpu.ShaderStage.COMPUTE,
                "buffer": {"type": each["type"]},
            }
            for each in buffers
        ]
    )
    pipeline = device.wgpu.create_compute_pipeline(
        layout=device.wgpu.create_pipeline_layout(bind_group_layouts=[layout]),
        compute={"module": device.wgpu.create_shader_module(code=code), "entry_point": "main"},
    )
    made = []
    try:
        for each in buffers:
            made.append(device.buffer(each["bytes"], uniform=each["type"] == "uniform"))
            if each["file"]:
                device.write(made[-1], np.fromfile(Path(each["file"]), np.uint8))
        entries = [
            {"binding": each["binding"], "resource": {"buffer": buffer, "offset": 0, "size": buffer.size}}
            for each, buffer in zip(buffers, made, strict=True)
        ]
        encoder = device.wgpu.create_command_encoder()
        compute = encoder.begin_compute_pass()
        compute.set_pipeline(pipeline)
        compute.set_bind_group(0, device.wgpu.create_bind_group(layout=layout, entries=entries))
        compute.dispatch_workgroups(*grid)
        compute.end()
        device.wgpu.queue.submit([encoder.finish()])
        device.read(made[0], np.uint32, 1)
    finally:
        for buffer in made:
            device.release(buffer)


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            device = open_device(**request.pop("device"))
            if request:
                run(device, **request)
            answer = {"value": device.name}
        except Exception as error:  # the other side decides what it means
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
