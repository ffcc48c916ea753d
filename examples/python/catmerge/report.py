"""What a merge did."""


class MergeWarning(UserWarning):
    """What a merge did otherwise than one may expect, a sentence each."""
