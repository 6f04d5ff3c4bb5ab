"""What children of the fault injector's server need: imported once, before it forks them. Nothing here may start a
thread, or compute with torch."""

import matplotlib.backends.backend_agg  # noqa: F401
import transformers.models.auto.tokenization_auto  # noqa: F401
from transformers import AutoTokenizer  # noqa: F401

import workbench.allocate.sensitivity
import workbench.cli
import workbench.convert.layerwise
import workbench.sweep.jobs
import workbench.sweep.spec  # noqa: F401
