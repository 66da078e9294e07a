"""Convolutions that mix several fields into several others by kernels that span the lattice.

Start at `mix_fields`. It takes the Fourier modes of kernels, as `OrbitKernel.modes_at` returns them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equiflow.nn.kernels.convolution import DENSE_VOLUME
from equiflow.theories.base.lattice import Lattice


def mix_fields(lattice: Lattice, fields: Tensor, modes: Tensor) -> Tensor:
    """Return `sum_i K_oi * h_i` for even kernels K.

    On small lattices one matrix product is quicker than FFTs. Both agree to rounding.

    Args:
        lattice: where the fields live.
        fields: h, `(batch, i, *lattice)`.
        modes: Fourier modes of K, real, `(o, i, *half_shape)`.

    Returns:
        `(batch, o, *lattice)`.
    """
    mix = _by_matrix if lattice.volume <= DENSE_VOLUME else _by_fourier
    return mix(lattice, fields, modes)


def _by_matrix(lattice: Lattice, fields: Tensor, modes: Tensor) -> Tensor:
    """Mix by one product with the matrix `K_oi(x - y)`, `(i y, o x)`."""
    n_out, n_in, volume = len(modes), modes.shape[1], lattice.volume
    values = lattice.ifft(modes + 0j).flatten(2)
    index = lattice.differences().to(modes.device).flatten()
    matrix = values.flatten(0, 1).index_select(1, index).view(n_out, n_in, volume, volume)
    mixed = fields.flatten(1) @ matrix.permute(1, 2, 0, 3).reshape(n_in * volume, n_out * volume)
    return mixed.view(len(fields), n_out, *lattice.shape)


def _by_fourier(lattice: Lattice, fields: Tensor, modes: Tensor) -> Tensor:
    """Mix the fields of each momentum by a small real matrix."""
    dim, batch = lattice.dim, len(fields)
    sent = torch.view_as_real(lattice.fft(fields)).flatten(2, -2)  # (batch, i, momentum, 2)
    rows = sent.permute(2, 0, 3, 1).flatten(1, 2)
    mixed = rows @ modes.flatten(2).permute(2, 1, 0)
    parts = mixed.unflatten(1, (batch, 2)).permute(1, 3, 0, 2).contiguous()
    return lattice.ifft(torch.view_as_complex(parts).unflatten(-1, modes.shape[-dim:]))
