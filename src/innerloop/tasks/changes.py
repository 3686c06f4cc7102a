"""Random changes of images: what makes new families of old classes, and tasks of images without labels."""

from dataclasses import dataclass, fields
from math import pi

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from innerloop.batches import onto
from innerloop.errors import InputError

Range = tuple[float, float]


@dataclass(frozen=True)
class Changes:
    """Ranges that changes of an image are drawn from, each uniformly; what is shifted in from outside is 0.

    Args:
        turn: degrees, counterclockwise.
        right, down: shifts, in parts of the image's width and height.
        larger: factor of its size.
        slant: shear, in widths a height.
        dropped: part of the pixels that become 0, each by itself.
        contrast: factor of every value.

    >>> changes = Changes(turn=(90, 90), right=(0, 0), down=(0, 0), larger=(1, 1), slant=(0, 0), dropped=(0, 0), contrast=(2, 2))
    >>> image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])[None, None]
    >>> changes.applied(image, changes.drawn(torch.Generator(), 1), torch.Generator())[0, 0].round(decimals=3)
    tensor([[4., 8.],
            [2., 6.]])

    Raises:
        InputError: a range is not a pair with the lower end first, or its numbers cannot be used.

    Source: after Khodadadeh et al. 2019, arXiv:1811.11819 (UMTRA), §4: shifts and dropped pixels of Omniglot, turns of photographs.
    """

    turn: Range = (-30.0, 30.0)
    right: Range = (-6 / 28, 6 / 28)
    down: Range = (-6 / 28, 6 / 28)
    larger: Range = (0.7, 1.2)
    slant: Range = (-0.4, 0.4)
    dropped: Range = (0.0, 0.5)
    contrast: Range = (0.5, 1.0)

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if low > high:
                raise InputError(f"{name} is {(low, high)}; give a pair (low, high), the lower end first")
        if self.larger[0] <= 0 or self.dropped[0] < 0 or self.dropped[1] > 1:
            raise InputError(f"larger is {self.larger} and dropped {self.dropped}; a size must be above 0 and a part from 0 to 1")

    @property
    def ranges(self) -> dict[str, Range]:
        """By name, in the order of what is drawn."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def drawn(self, generator: torch.Generator, *shape: int) -> Tensor:
        """Values of the changes, ``[*shape, changes]``."""
        low, high = torch.tensor(list(self.ranges.values())).T
        return low + (high - low) * torch.rand(*shape, len(low), generator=generator)

    def applied(self, x: Tensor, values: Tensor, generator: torch.Generator) -> Tensor:
        """Images ``[…, channels, height, width]`` changed by ``values`` ``[…, changes]``; the generator draws which pixels are dropped."""
        flat = x.flatten(0, -4)
        turn, right, down, larger, slant, dropped, contrast = onto(values.reshape(len(flat), -1), x.device).to(x).unbind(-1)
        cos, sin = torch.cos(turn * pi / 180), torch.sin(turn * pi / 180)
        # Where each pixel of the new image lies in the old one: shifted back, turned back, slanted back, made smaller.
        a, b, c, d = cos + slant * sin, slant * cos - sin, sin, cos
        rows = [torch.stack(row, dim=-1) for row in ((a, b, -2 * (a * right + b * down)), (c, d, -2 * (c * right + d * down)))]
        back = torch.stack(rows, dim=-2) / larger[:, None, None]
        moved = grid_sample(flat, affine_grid(back, list(flat.shape), align_corners=False), align_corners=False)
        stay = onto(torch.rand(len(flat), 1, *x.shape[-2:], generator=generator), x.device) >= dropped[:, None, None, None]
        return (moved * stay * contrast[:, None, None, None]).reshape(x.shape)
