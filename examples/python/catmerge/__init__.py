"""Merges fine-tuned networks without training: CAT Merging, and the other methods beside it.

Three levels, as in the C++ library: steps (`task_vector`, `removal_basis`, ...), one parameter
(`merge_parameter`, `cat_linear`, `ties`, ...), whole networks (`merge` for mappings of names to
arrays, `merge_checkpoints` for files). `methods` lists the methods and their settings.
"""

from . import _kernels

kernels = _kernels.choose()
__path__.append(_kernels.folder(kernels))  # _core lies there

from . import _core  # noqa: E402
from ._core import Error
from .adapter import Adapter
from .catalogue import merged_transforms, methods, transforms
from .checkpoint import Checkpoint, StatisticsFile, merge_checkpoints, open, open_statistics
from .network import merge
from .parameter import (
    breadcrumbs,
    cat_group,
    cat_linear,
    cat_scale,
    cat_shift,
    consensus,
    dc_merge,
    fisher,
    iso,
    lot_linear,
    lot_scale,
    merge_parameter,
    pcb,
    regmean_linear,
    task_arithmetic,
    tatr,
    ties,
    tsv_m,
    weight_average,
    wudi,
)
from .recording import record
from .report import MergeWarning, Report
from .steps import (
    add_task_vector,
    conflict_matrix,
    feature_shift,
    feature_statistics,
    inter_task_conflict,
    lipschitz_bound,
    mask_out,
    moment_statistics,
    project_out,
    removal_basis,
    scale_mask,
    shift_mask,
    spectral_norm,
    statistics_view,
    subtract_base,
    task_vector,
    with_task_vector,
)

__version__ = _core.version

for _class in (Error, feature_statistics, moment_statistics, statistics_view):
    _class.__module__ = "catmerge"
del _class

__all__ = [name for name in dir() if not name.startswith("_")]
