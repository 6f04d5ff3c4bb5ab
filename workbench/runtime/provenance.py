"""What a number needs beside it to be repeated: adapter, driver, versions, commit, hashes."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from wgsl_kernels.pair import FOLDER
from workbench.models.adapted import Adapted
from workbench.models.catalogue import provenance_of

from . import own_kernels

PACKAGES = ("wgpu", "torch", "numpy", "safetensors", "tokenizers", "transformers")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    import workbench

    found = {"workbench": workbench.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        found[package] = metadata.version(package)
    return found


@functools.cache
def commit() -> dict:
    """Commit of the source tree, and whether it was changed; empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        run = functools.partial(
            subprocess.run, cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
        top = run(["git", "rev-parse", "--show-toplevel"]).stdout.strip()
        if Path(top) != root:
            return {}
        head = run(["git", "rev-parse", "HEAD"]).stdout.strip()
        # Without the lock that git takes to note what it found: killed (a file size limit) it would leave it behind.
        dirty = bool(run(["git", "--no-optional-locks", "status", "--porcelain"]).stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": head, "dirty": dirty}


@functools.cache
def kernels_hash() -> str:
    """sha256 over the kernel library's WGSL and Python files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted([*FOLDER.rglob("*.wgsl"), *FOLDER.rglob("*.py")]):
        digest.update(path.relative_to(FOLDER).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def adapter_facts(device) -> dict[str, str]:
    """What wgpu tells about a device's adapter and driver."""
    return {k: device.info[k] for k in ("vendor", "device", "description", "adapter_type", "backend_type")}


def surroundings(device) -> dict:
    """The record of a figure that was measured on a device without a model; JSON values."""
    return {
        "adapter": adapter_facts(device),
        "versions": dict(versions()),
        "kernels_sha256": kernels_hash(),
        **commit(),
    }


def provenance(model) -> dict:
    """The record of a loaded model; JSON values."""
    source = model.source
    manifest = getattr(source, "manifest", None)
    executor = model.executor
    record = {
        "model": str(source.path.name),
        "backend": model.backend,
        "device": model.device_name,
        "activations": executor.activations,
        "cache": executor.cache,
        "versions": versions(),
        "kernels_sha256": kernels_hash(),
        **commit(),
    }
    if manifest is not None:
        record["source"] = manifest.get("provenance", {})
    else:
        record["source"] = {"files": source.source_hashes()}
        if (fetched := provenance_of(source.path)) is not None:
            record["source"]["fetched"] = {key: value for key, value in fetched.items() if key != "files"}
    if isinstance(source, Adapted):
        record["lora"] = source.record()
    device = getattr(executor, "device", None)
    if device is not None:
        record["adapter"] = adapter_facts(device)
        if executor.tuned is not None:
            record["tuned"] = executor.tuned.used()
        if executor.library is not None:
            record["own_kernels"] = own_kernels.record(executor.library)
    return record
