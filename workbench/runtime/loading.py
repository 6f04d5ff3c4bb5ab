"""Loading a model: what it is run as, on which executor, and what is said of these choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Unpack

from wgsl_kernels.library import Library
from workbench.errors import WorkbenchError
from workbench.models.adapted import adapted
from workbench.models.architecture import Architecture
from workbench.models.source import Source, notes_of, open_source

from .choices import Choices, Execution, choose, executing
from .executor import Executor
from .model import Model
from .split import SplitExecutor, require_split


def _on_device(
    source: Source,
    config: Architecture,
    chosen: Choices,
    adapter: str | int | None,
    library: Library | None,
    layers: int | None,
) -> Callable[[], Executor]:
    """Makes executors of a model on a device, a new one where the chosen one was lost."""
    from .device import open_device
    from .tuning.tuned import open_tuned
    from .wgpu_executor import WgpuExecutor

    def make() -> Executor:
        device = open_device(adapter)
        whole = WgpuExecutor(
            source,
            config,
            device,
            activations=chosen.dtype,
            cache=chosen.cache,
            ring=chosen.ring,
            tuned=chosen.tuned if device is chosen.device else open_tuned(device),
            library=library,
        )
        return whole if layers is None else SplitExecutor(whole, layers)

    return make


@executing
def load(
    path_or_hub_id,
    backend: str | None = None,
    *,
    library: Library | None = None,
    lora: str | Path | Mapping[str, str | Path] | None = None,
    lora_format: str | None = None,
    warm: bool = False,
    device_layers: int | None = None,
    **execution: Unpack[Execution],
) -> Model:
    """Load a converted folder, a Hugging Face checkpoint folder, a hub id, or what
    `open_source` has opened or offers the same.

        m = workbench.load("DIR", dtype="auto")
        "".join(m.generate("Once upon a time", max_new_tokens=8))

    backend: "wgpu" (the WGSL kernels), "torch" (their PyTorch references), or None for wgpu where there is an
    adapter. dtype: "f32"; "f16" for activations; "int8" for the inputs of linear layers with integer weights; or
    "auto", f16 where the adapter has it. max_tokens: positions of the key/value cache. cache: what it is stored as,
    "f32", "f16" or "int8" (one scale a position and head); by default f16 where activations are, else f32. adapter: a
    part of its name, or its place in the list of `workbench adapters`; by default what `WORKBENCH_ADAPTER` says, else
    the most powerful. What `workbench tune` has measured on this adapter is used, and nothing is measured here.
    library: of kernels, where some are others than those that are registered (`wgsl_kernels.library().with_variant`,
    `Lab.library`); `choices` then says where they run.

    window: how many positions every token sees, itself included, where a layer would see more (`docs/generation.md`);
    sinks: the first positions of a text that it sees besides. They bound the cache, so that texts can be as long as
    `max_tokens`, by default 65,536 positions then, whatever the model's context.
    lora: a folder or hub id with an adapter as PEFT saves it, beside whose products the weights stay as they are; or
    several, {"NAME": DIR_OR_HUB_ID}, of which each sequence names one or none (`adapter` of `generate`, `forward` and
    so on). lora_format: what their factors are stored as, such as "int4" (rounded to nearest) or "f16", by default f32.
    warm: compile and upload now (`Model.warm`), so that the first prompt does not wait for it.
    device_layers: how many layers the device runs, None for all; the references run the others, so that a model can be
    run that is larger than the device's memory (`workbench.runtime.split`).
    Raises `FormatError`, `CheckpointError`, `UnsupportedModelError`, `NoAdapterError`, `OutOfMemoryError`, and
    `WorkbenchError` for a library that changes nothing of what this model runs.
    """
    source, config = adapted(open_source(path_or_hub_id), lora, lora_format)
    chosen = choose(config, backend, **execution)
    chosen.reasons.extend(notes_of(source, config))
    if library is not None and chosen.backend != "wgpu":
        raise WorkbenchError(
            "library holds WGSL kernels, and backend torch runs their references; allowed: wgpu"
        )
    if device_layers is not None:
        require_split(device_layers, config.layers, chosen.backend, library)
        how = "asked for: the references run the others"
        chosen.reasons.append(("layers", f"{device_layers} of {config.layers} on the device", how))
    if chosen.backend == "torch":
        from .torch_executor import TorchExecutor

        def make_executor() -> Executor:
            return TorchExecutor(
                source, config, activations=chosen.dtype, cache=chosen.cache, ring=chosen.ring
            )
    else:
        adapter = execution.get("adapter")
        make_executor = _on_device(source, config, chosen, adapter, library, device_layers)

    model = Model(source, config, make_executor, chosen.reasons, chosen.max_tokens)
    model.plan("last")  # says what cannot be
    if chosen.device is not None:
        from .fits import require_fits

        require_fits(chosen.device, model.executor, chosen.max_tokens, device_layers)
    if library is not None:
        from .own_kernels import where_used

        chosen.reasons.extend(where_used(model.executor, library, chosen.max_tokens))
    if warm:
        model.warm()
    return model
