"""The methods, transforms and settings there are: the program's own list."""

from . import _core


def methods():
    """List the merging methods.

    Returns
    -------
    list of dict
        One per method: ``name``, ``label``, ``summary``, ``paper``, ``arxiv``,
        ``needs_features``, ``needs_importance``, ``looks_at_whole_model``, and ``settings``, a list
        of dicts with ``name``, ``default``, ``help``, ``type`` and ``words``. A setting is given
        as a keyword argument (underscores for dashes, ``lambda_`` for lambda) or in the method's
        text, ``"ties:density=0.1"``.
    """
    return _core.methods()


def transforms():
    """List the changes of task vectors that may come before a method (``before=``), likewise."""
    return _core.transforms()


def merged_transforms():
    """List the changes of what was merged that may come after a method (``after=``), likewise."""
    return _core.merged_transforms()
