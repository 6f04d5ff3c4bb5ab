"""What external profilers show: pipelines, buffers and passes say what they are."""

from __future__ import annotations

import pytest

from .models import SHAPES, model_on, write_random

SHAPE = SHAPES[5]


@pytest.fixture(scope="module")
def model(tmp_path_factory, open_promised):
    return model_on(write_random(tmp_path_factory.mktemp("labels") / "model", SHAPE), open_promised)


def test_pipelines_buffers_and_passes_carry_labels(model, monkeypatch):
    device, passes, buffers = model.executor.device, [], []
    allocate, make_encoder = device.wgpu.create_buffer, device.wgpu.create_command_encoder

    def recording(**arguments):
        buffers.append(arguments["label"])
        return allocate(**arguments)

    def encoder(**arguments):
        made = make_encoder(**arguments)
        begin = made.begin_compute_pass

        def begin_compute_pass(*, label="", **more):
            passes.append(label)
            return begin(label=label, **more)

        made.begin_compute_pass = begin_compute_pass
        return made

    monkeypatch.setattr(device.wgpu, "create_buffer", recording)
    monkeypatch.setattr(device.wgpu, "create_command_encoder", encoder)
    session = model.session(edit={"layers.0.mlp.out": lambda x, position: x})
    session.feed([1, 2, 3, 4])
    session.close()
    plain = model.session()
    plain.feed([1])
    plain.greedy_after(1, 2)
    session.close()
    assert all(buffers) and {"ids", "state", "embedding.values", "activations 0"} <= set(buffers)
    assert passes == [
        "up to the edit of layers.0.mlp.out",
        "after the last edit",
        "last, 1 token(s)",
        *["greedy, 1 token(s)"] * 2,
    ]
    ready = model.executor._ready["greedy", 1, plain.capacity, 1, ()]
    for step, each in zip(ready.plan.steps, ready.program.dispatches, strict=True):
        built = ready.built[each.pipeline]
        assert built.pipeline.label == f"{step.kernel.name}/{step.variant}" == built.label
