"""Files that appear whole or not at all, and tensors kept in them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from innerloop.errors import InputError
from innerloop.params import Params

PRIOR = "prior.safetensors"
CHECKPOINT = "checkpoint.safetensors"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name first, so that nobody ever reads half of it."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def writable(folder: Path) -> Path:
    """The folder, once it is known that it can be written; it is made where it is missing.

    Raises:
        InputError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"cannot make the folder {folder}: {problem.strerror}; choose another with --out") from problem
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"the folder {folder} is not writable; choose another with --out")
    return folder


def save(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Tensors by name and JSON values beside them, as one safetensors file."""
    from safetensors.torch import save as packed

    kept = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_whole(path, packed(kept, {key: json.dumps(value) for key, value in about.items()}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``save`` kept.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"there is no {path}; check the folder's name")
    try:
        with safe_open(path, framework="pt") as file:
            about = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118, the file is no dict
    except (SafetensorError, ValueError) as problem:
        raise InputError(f"{path} is truncated or no safetensors file ({problem}); copy it again, or start the run anew") from problem


def read_prior(folder: Path, prior: Params, going_on: str) -> tuple[Params, dict[str, Any]]:
    """The prior that a run left in its folder, once it is known to fit the learner's, and what is kept beside it.

    Args:
        going_on: how such a run goes on, for one that is not finished.

    Raises:
        InputError: it is not there yet, missing, damaged, or of another network.
    """
    path = folder / PRIOR
    if not path.is_file() and (folder / CHECKPOINT).is_file():
        raise InputError(f"the run in {folder} is not finished: it has a checkpoint and no {PRIOR}; go on with {going_on}")
    saved, about = read(path)
    return fitting(prior, saved, path), about


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        InputError: it is damaged.
    """
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
        return found
    except ValueError as problem:
        raise InputError(f"{path} is damaged ({problem}); copy it again, or start the run anew with --overwrite") from problem


def fitting(prior: Params, saved: Params, path: Path) -> Params:
    """The saved parameters, once it is known that they are those of the learner's prior.

    Raises:
        InputError: names or shapes differ.
    """
    if missing := sorted(prior.keys() ^ saved.keys()):
        where = "the learner" if missing[0] in saved else "the file"
        raise InputError(f"{path} is of another learner: {where} has no {missing[0]}; build the one it was saved from")
    for name, p in prior.items():
        if p.shape != saved[name].shape:
            raise InputError(f"{path} is of another network: {name} is {list(saved[name].shape)} there but {list(p.shape)} in the learner")
    return {name: saved[name].to(p) for name, p in prior.items()}
