"""Arrays of types that NumPy lacks."""

import warnings


def from_bits(bits, dtype, like):
    """The array of a type by its name whose bits NumPy holds as unsigned integers.

    Parameters
    ----------
    bits : numpy.ndarray
        Of the elements' size; used in place.
    dtype : str
        "float32", "bfloat16", "float8_e4m3fn", ...
    like : {"numpy", "torch"}
        The library of the result. bfloat16 and 8-bit floats in NumPy need the package ml_dtypes.
    """
    if not bits.flags.aligned:
        bits = bits.copy()
    if like == "torch":
        import torch

        kind = getattr(torch, dtype)
        with warnings.catch_warnings():
            # torch knows no read-only tensors, and says so.
            warnings.simplefilter("ignore")
            if bits.dtype.name == dtype:
                return torch.from_numpy(bits)
            return torch.from_numpy(bits.view(f"int{8 * bits.itemsize}")).view(kind)
    if bits.dtype.name == dtype:
        return bits
    try:
        import ml_dtypes
    except ImportError:
        from . import Error

        raise Error(
            f"NumPy has no {dtype}: install ml_dtypes, or ask for torch's tensors (like='torch')"
        ) from None
    return bits.view(getattr(ml_dtypes, dtype))


