"""The diffusion operator of a cloud of points, in tiles: rows, columns and products, never all of it unless asked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from hartley.info.checks import check_one_of, check_positive

Normalization = Literal["symmetric", "anisotropic"]
Sigma = float | Literal["median"]

TILE = 512  # rows and columns of the kernel that are held at once: a tile stays in a core's cache
WIDE_TILE = 8192  # on an accelerator
REACH = {torch.float32: 2e3, torch.float64: 1e11}  # squared length over sigma, of which eps is 1e-4
PAIRED = 1000  # rows whose distances give the median


def bandwidth(rows: Tensor, sigma: Sigma) -> float:
    """Return ``sigma``, or for "median" the median distance above 0 between the first 1,000 rows (1 where all agree).

    Raises ``ValueError`` for a number that is not above 0 and another word.
    """
    if not isinstance(sigma, str):
        check_positive("sigma", sigma)
        return float(sigma)
    if sigma != "median":
        raise ValueError(f'sigma must be a number above 0 or "median"; got {sigma!r}')
    few = rows[:PAIRED].double()
    apart = torch.cdist(few, few, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart[apart > 0]
    return float(apart.median()) if len(apart) else 1.0


class DiffusionOperator:
    """K = S G S of N rows, where G_ij = exp(-|z_i - z_j|^2 / (2 sigma^2)) and S is diagonal.

    "symmetric": S = diag(G 1)^-1/2. "anisotropic": with q = G 1 and G' = G / (q_i q_j)^alpha, K is G' scaled by
    diag(G' 1)^-1/2, which has the eigenvalues of the random walk on G'; alpha 0 is the symmetric one. Either way K is
    positive semidefinite with the largest eigenvalue 1. ``dtype`` is that of the tiles; distances that would cancel in
    float32 make it float64.
    """

    def __init__(
        self, rows: Tensor, sigma: float, normalization: Normalization, alpha: float, dtype: torch.dtype
    ) -> None:
        check_one_of("normalization", normalization, get_args(Normalization))
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1]; got {alpha}")
        points = rows.double()
        points = (points - points.mean(0)) / sigma  # centred, so that less cancels in the distances
        longest = float(points.detach().square().sum(1).amax())
        if not longest < math.inf:
            raise ValueError(f"sigma must not vanish beside the distances in Z; got {sigma:.3g}")
        # |x|^2 + |y|^2 - 2 x'y loses eps |x|^2: beyond 1e-4 or so first another dtype, then another way
        if longest > REACH[torch.float32]:
            dtype = torch.float64
        self.far = longest > REACH[torch.float64]
        self.points = points.to(dtype)
        self.half_norms = self.points.square().sum(1) / 2
        ones = torch.ones(len(rows), 1, dtype=dtype, device=rows.device)
        self.scale = ones[:, 0]
        density = self.times(ones)[:, 0]
        if normalization == "anisotropic" and alpha > 0:
            self.scale = density.pow(-alpha)
            density = self.times(ones)[:, 0]
        self.scale = self.scale * density.rsqrt()
        self.diagonal = self.scale.double().square()
        self.top = density.sqrt() / density.sum().sqrt()  # the eigenvector of the eigenvalue 1

    def __len__(self) -> int:
        return len(self.points)

    def times(self, vectors: Tensor) -> Tensor:
        """K V for ``vectors [N, M]``; each tile above the diagonal is made once and serves for both sides."""
        scaled = vectors * self.scale[:, None]
        found = torch.zeros_like(scaled)
        for rows in self._tiles():
            for columns in self._tiles(rows.start):
                tile = self._kernel(rows, columns)
                found[rows] += tile @ scaled[columns]
                if columns != rows:
                    found[columns] += tile.T @ scaled[rows]
        return found.mul_(self.scale[:, None])

    def columns(self, places: Tensor) -> Tensor:
        """K[:, places], ``[N, P]``, in float64 whatever the dtype of the tiles."""
        points, scale = self.points.double(), self.scale.double()
        half_norms = points.square().sum(1) / 2
        exponents = self._exponents(points, half_norms, points[places], half_norms[places])
        exponents[places, torch.arange(len(places), device=places.device)] = 0
        return exponents.exp_().mul_(scale[:, None]).mul_(scale[places])

    def squares(self) -> float:
        """The sum of K's squared entries, which is that of its squared eigenvalues."""
        return sum(float(tile.square().sum()) * (1 if r == c else 2) for r, c, tile in self._upper())

    def dense(self, dtype: torch.dtype, *, deflated: bool = False) -> Tensor:
        """All of K in ``dtype``, ``[N, N]``; ``deflated`` takes out the eigenvalue 1, before rounding to ``dtype``."""
        found = torch.empty(len(self), len(self), dtype=dtype, device=self.points.device)
        for rows, columns, tile in self._upper():
            if deflated:
                tile.addr_(self.top[rows], self.top[columns], alpha=-1)
            found[rows, columns] = tile
            found[columns, rows] = tile.T
        return found

    def _upper(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """The tiles of K on and above the diagonal."""
        for rows in self._tiles():
            for columns in self._tiles(rows.start):
                yield rows, columns, self._kernel(rows, columns) * self.scale[rows, None] * self.scale[columns]

    def _tiles(self, start: int = 0) -> Iterator[slice]:
        size = TILE if self.points.device.type == "cpu" else WIDE_TILE
        for begin in range(start, len(self), size):
            yield slice(begin, min(begin + size, len(self)))

    def _kernel(self, rows: slice, columns: slice) -> Tensor:
        x, y = self.points[rows], self.points[columns]
        exponents = self._exponents(x, self.half_norms[rows], y, self.half_norms[columns])
        if columns == rows:
            exponents.fill_diagonal_(0)
        return exponents.exp_()  # nothing in place after this: autograd needs it

    def _exponents(self, x: Tensor, half_x: Tensor, y: Tensor, half_y: Tensor) -> Tensor:
        if self.far:
            return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square().div_(-2)
        return torch.addmm(-half_x[:, None], x, y.T).sub_(half_y).clamp_(max=0)
