"""A second device for machines that have none.

It computes on the CPU, refuses what a GPU refuses (tensors of two devices in one operation, a generator
of the wrong one), and remembers what the host has to wait for it for.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"

SOURCE = str(Path(__file__).parents[1] / "src")

FOR_THE_HOST = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive")
"""Operations whose result the host reads, or whose shape it has to know."""

waits: list[str] = []
"""Where the host waited for the device, as ``file:line`` of the library's, the innermost first."""


class There(Tensor):
    """A tensor of the device; ``held`` is the CPU's tensor with its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "There":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=torch.device(NAME, 0), **layout)
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"{self.held!r} {NAME}"

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, *args, **(kwargs or {}))


class Module:
    """What ``torch.elsewhere`` is; its random numbers are its own."""

    random: ClassVar[Tensor] = torch.Generator().manual_seed(0).get_state()
    library: ClassVar[torch.library.Library]

    class Event:
        """Its work is done as soon as it is asked for."""

        def record(self) -> None: ...

        def synchronize(self) -> None: ...

    synchronize = staticmethod(lambda device=None: None)
    is_available = is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 1)
    current_device = staticmethod(lambda: 0)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])

    @classmethod
    def get_rng_state(cls, device: Any = None) -> Tensor:
        return cls.random

    @classmethod
    def set_rng_state(cls, state: Tensor, device: Any = None) -> None:
        cls.random = state


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    name, goal = op.overloadpacket.__name__, kwargs.get("device")
    copies = name == "copy_"
    home = args[0].device if copies else torch.device(NAME if goal is None else goal)
    if copies or name in ("to", "_to_copy"):
        source, later = (args[1], args[2:] == (True,)) if copies else (args[0], kwargs.get("non_blocking"))
        waited = {source.device.type, home.type} == {"cpu", NAME} and not later
    else:
        _refuse(name, (args, kwargs), home)
        waited = name in FOR_THE_HOST or (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1]))
    if waited:
        frames = [f for f in reversed(traceback.extract_stack()) if f.filename.startswith(SOURCE)]
        waits.append(" < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames))

    held_args, held = pytree.tree_map_only(There, lambda t: t.held, (args, kwargs))
    if goal is not None and home.type == NAME:
        held["device"] = torch.device("cpu")
    with _drawn_there() if torch.Tag.nondeterministic_seeded in op.tags and home.type == NAME else nullcontext():
        out = op(*held_args, **held)
    if name == "_efficientzerotensor":
        out = torch.zeros(out.shape, dtype=out.dtype)  # the CPU's has no memory
    if home.type != NAME:
        return args[0] if copies else out
    out = pytree.tree_map_only(Tensor, There, out)
    return return_and_correct_aliasing(op, args, kwargs, out) if op._schema.is_mutable else out


@contextmanager
def _drawn_there() -> Iterator[None]:
    """Random numbers are the device's within the block."""
    here = torch.get_rng_state()
    torch.set_rng_state(Module.random)
    yield
    Module.random = torch.get_rng_state()
    torch.set_rng_state(here)


def _refuse(name: str, given: Any, home: torch.device) -> None:
    """What a GPU refuses; single numbers and indices of the CPU it takes."""
    leaves = pytree.tree_leaves(given)
    there = any(isinstance(leaf, There) for leaf in leaves)
    here = any(isinstance(leaf, Tensor) and leaf.ndim and not isinstance(leaf, There) for leaf in leaves)
    if there and here and "index" not in name:
        raise RuntimeError(f"{name} is given tensors of {NAME} and of the CPU")
    if (there or home.type == NAME) and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{name} on {NAME} is given a generator of the CPU")


# As soon as this is imported: autograd starts its threads at the first backward, for the devices that there are then.
_setup_privateuseone_for_python_backend(NAME, backend_module=Module())
Module.library = torch.library.Library("_", "IMPL")  # kept, as what it registers ends with it
Module.library.fallback(_run, "PrivateUse1")  # what makes tensors without being given any
