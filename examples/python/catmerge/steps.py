"""The steps of a merge, each usable alone.

Shapes: a linear weight W is d_out x d_in, as checkpoints store it; features X are n x d_in, a row
for each token; a scale or shift has d entries. Arrays are NumPy's, torch's (on the CPU), or any that
export the buffer protocol or DLPack; float64, float32, float16 or bfloat16, with any strides. They
are used in place. Results are new arrays of the first argument's family and of the type of its
arithmetic: float64 for float64, float32 for all others.

All functions raise `Error` (a ValueError) for arrays of another type or on another device, and for
shapes that do not fit. ``threads`` is the number of threads, 0 for one per processor; the result does
not depend on it. The interpreter's lock is released during the computation.
"""

from __future__ import annotations

from typing import Any, Sequence

from . import _core
from ._core import feature_statistics, moment_statistics, statistics_view
from ._words import _key, _text

Array = Any

__all__ = [
    "add_task_vector",
    "conflict_matrix",
    "feature_shift",
    "feature_statistics",
    "inter_task_conflict",
    "lipschitz_bound",
    "mask_out",
    "moment_statistics",
    "project_out",
    "removal_basis",
    "scale_mask",
    "shift_mask",
    "spectral_norm",
    "statistics_view",
    "subtract_base",
    "task_vector",
    "with_task_vector",
]


def _settings(settings):
    return ",".join(f"{_key(name)}={_text(value)}" for name, value in settings.items())


def task_vector(base: Array, expert: Array, *, threads: int = 0) -> Array:
    """T = theta_k - theta_0, the task vector of an expert (Ilharco et al., ICLR 2023).

    Parameters
    ----------
    base, expert : array, of one shape of one or two axes
        Their types may differ.

    Returns
    -------
    array
        Of base's shape.

    Raises
    ------
    Error
        If the shapes differ.
    """
    return _core.task_vector(base, expert, threads)


def with_task_vector(base: Array, vector: Array, alpha: float = 1, *, threads: int = 0) -> Array:
    """theta_0 + alpha T, as a new array.

    Parameters
    ----------
    base, vector : array, of one shape of one or two axes
    alpha : float

    Raises
    ------
    Error
        If the shapes differ.
    """
    return _core.with_task_vector(base, vector, alpha, threads)


def subtract_base(base: Array, expert: Array, *, threads: int = 0) -> None:
    """expert <- expert - base, in place, rounded to expert's own type.

    Raises
    ------
    Error
        If the shapes differ, or if expert is read-only or has elements that share memory.
    """
    _core.subtract_base(base, expert, threads)


def add_task_vector(
    parameter: Array, vector: Array, alpha: float = 1, *, threads: int = 0
) -> None:
    """parameter <- parameter + alpha T, in place, rounded to parameter's own type.

    Raises
    ------
    Error
        If the shapes differ, or if parameter is read-only or has elements that share memory.
    """
    _core.add_task_vector(parameter, vector, alpha, threads)


def feature_shift(kind: str, features: Any, vector: Array, *, threads: int = 0) -> float:
    """||Df(X; T)||_F^2, how far T shifts a layer's outputs on the inputs X, summed over rows.

    Df is X T^T for a linear weight, x o T for a scale, T for a shift.

    Parameters
    ----------
    kind : {"linear", "scale", "shift"}
    features : array, n x d_in, or statistics
        Rows, or a `feature_statistics`, `moment_statistics` (not for linears) or
        `statistics_view`.
    vector : array
        d_out x d_in, or d entries.

    Raises
    ------
    Error
        If shapes or the form of the statistics do not fit the kind, and for another kind.
    """
    return _core.feature_shift(kind, features, vector, threads)


def conflict_matrix(
    kind: str, features: Sequence[Any], vectors: Sequence[Array], *, threads: int = 0
):
    """The shift of each task's features by each task's vector.

    Entry (k, i) is ||Df(X_k; T_i)||_F^2. The sum of row k without its diagonal is the inter-task
    conflict of task k, the first term of Eq. 8 of CAT Merging (Sun et al., ICML 2025).

    Parameters
    ----------
    kind : {"linear", "scale", "shift"}
    features, vectors : sequences of K
        As `feature_shift` takes them.

    Returns
    -------
    numpy.ndarray, K x K, float64

    Raises
    ------
    Error
        As `feature_shift`, and if the sequences differ in length.
    """
    return _core.conflict_matrix(kind, features, vectors, threads)


def inter_task_conflict(shifts):
    """The K row sums of a `conflict_matrix` without its diagonal, as a list."""
    return [
        sum(float(shifts[k][i]) for i in range(len(shifts)) if i != k) for k in range(len(shifts))
    ]


def removal_basis(
    k: int,
    vectors: Sequence[Array],
    features: Sequence[Any],
    *,
    threads: int = 0,
    **settings: Any,
) -> dict:
    """B_k, the directions of output space that CAT removes from other tasks to protect task k.

    Eq. 8 of CAT Merging (Sun et al., ICML 2025) is a constant minus tr(B^T G_k B), so B_k holds
    the eigenvectors of the largest positive eigenvalues of

        G_k = sum_{i != k} T_i (X_k^T X_k - lambda X_i^T X_i) T_i^T

    Parameters
    ----------
    k : int
        The protected task.
    vectors : sequence of K arrays, d_out x d_in
        The task vectors.
    features : sequence of K, arrays n_i x d_in or statistics
    **settings
        Those of the method ``cat``: ``lambda_``, ``rank``, ``basis_energy``, ... (`methods`).

    Returns
    -------
    dict
        ``basis`` (d_out x c, orthonormal columns), ``eigenvalues`` of its directions, ``spectrum``
        (all that are known), ``magnitude`` (largest absolute eigenvalue), ``residual``,
        ``positive``, ``products``, ``solver``. The basis is unique up to rotations within equal
        eigenvalues.

    Raises
    ------
    Error
        If k is no task, lengths or shapes do not fit, a value is not finite, or for settings
        without meaning.
    """
    return _core.removal_basis(k, vectors, features, _settings(settings), threads)


def project_out(basis: Array, vector: Array, *, threads: int = 0) -> None:
    """T <- (I - B B^T) T, in place: the trim of a linear weight.

    Parameters
    ----------
    basis : array, d_out x c, with orthonormal columns (not checked)
    vector : array, d_out x d_in

    Raises
    ------
    Error
        If the numbers of rows differ, or if vector is read-only.
    """
    _core.project_out(basis, vector, threads)


def scale_mask(
    k: int,
    vectors: Sequence[Array],
    features: Sequence[Any],
    *,
    threads: int = 0,
    **settings: Any,
) -> list:
    """The coordinates of a scale that CAT removes from other tasks' vectors to protect task k.

    They have the largest positive scores (E: the mean over rows)

        s_k[j] = sum_{i != k} E[(x_k[j] T_i[j])^2] - lambda E[(x_i[j] T_i[j])^2]

    Parameters
    ----------
    k : int
    vectors : sequence of K arrays of d entries
    features : sequence of K, arrays n_i x d of *normalised* inputs, or statistics
    **settings
        ``scale_lambda``, ``scale_rank`` and the others of the method ``cat``.

    Returns
    -------
    list of int
        Positions, ascending; for `mask_out`.
    """
    return _core.scale_mask(k, vectors, features, _settings(settings), threads)


def shift_mask(k: int, vectors: Sequence[Array], *, threads: int = 0, **settings: Any) -> list:
    """The same for a shift, by the largest s_k[j] = sum_{i != k} T_i[j]^2, without features.

    Parameters
    ----------
    k : int
    vectors : sequence of K arrays of d entries
    **settings
        ``shift_rank`` and the others of the method ``cat``.
    """
    return _core.shift_mask(k, vectors, _settings(settings), threads)


def mask_out(mask: Sequence[int], vector: Array) -> None:
    """T[j] <- 0 for every j of the mask, in place.

    Raises
    ------
    Error
        For a position outside of the vector, which is then unchanged.
    """
    _core.mask_out([int(j) for j in mask], vector)


def spectral_norm(weight: Array, *, threads: int = 0) -> float:
    """||W||_2, the largest singular value of a matrix: the Lipschitz constant of x -> W x."""
    return _core.spectral_norm(weight, threads)


def lipschitz_bound(beta: float, gammas: Sequence[float], shifts: Sequence[float]) -> float:
    """beta sum_l (prod_{m > l} gamma_m) ||df^l||, a bound of the loss's change in a chain of layers.

    Parameters
    ----------
    beta : float
        The Lipschitz constant of the loss in the network's output.
    gammas, shifts : sequences of one length
        Of each layer: the Lipschitz constant of the changed layer in its input, and ||df||_F at the
        inputs of the unchanged network, the root of `feature_shift`.
    """
    return _core.lipschitz_bound(beta, list(gammas), list(shifts))
