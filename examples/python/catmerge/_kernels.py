"""Which build of the compiled part to load.

It comes in folders beside this file: `kernels_portable` for any processor, `kernels_avx2` for x86 with AVX2 and FMA;
or `kernels_native`, made for the processor that built it. The environment variable CATMERGE_KERNELS names one.
"""

import os
import pathlib

from . import _processor

_here = pathlib.Path(__file__).parent


def choose():
    """The name of the kernels: those that are asked for, else the fastest that run here."""
    built = [
        name for name in ("native", "avx2", "portable") if (_here / f"kernels_{name}").is_dir()
    ]
    runs = [name for name in built if name != "avx2" or _processor.runs_avx2()]
    asked = os.environ.get("CATMERGE_KERNELS")
    if asked and asked not in built:
        raise ImportError(f"CATMERGE_KERNELS: expected {' or '.join(built)}, found {asked!r}")
    if asked and asked not in runs:
        raise ImportError(
            f"CATMERGE_KERNELS={asked}: this processor does not run them; expected {' or '.join(runs)}"
        )
    if not runs:
        raise ImportError(
            f"catmerge was built for {' and '.join(built) or 'no processor'}, which this processor does "
            "not run: build it without the setting CATMERGE_KERNELS"
        )
    return asked or runs[0]


def folder(name):
    """The folder of these kernels."""
    return str(_here / f"kernels_{name}")
