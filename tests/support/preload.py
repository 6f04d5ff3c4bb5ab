"""What children of the fault injector's server need: imported once, before it forks them. Nothing of it may start a
thread, or compute with torch."""

from importlib import import_module

import transformers

MODULES = """
matplotlib.backends.backend_agg numpy.random PIL.ImageOps safetensors.torch
transformers.image_utils transformers.models.auto.tokenization_auto transformers.models.llama.modeling_llama
workbench.precision.joint workbench.precision.plots workbench.cli workbench.convert.layerwise workbench.runtime.model
workbench.quantizers.awq workbench.quantizers.gptq workbench.quantizers.grid workbench.quantizers.trained
workbench.sweeps.jobs workbench.sweeps.spec workbench.sweeps.table
"""
for name in MODULES.split():
    import_module(name)
# Names that transformers imports when they are first asked for.
LAZY = transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast
