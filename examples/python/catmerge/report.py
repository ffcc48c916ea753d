"""What a merge did."""

import html
import json
import warnings as _warnings

from . import _core
from ._words import plain


class MergeWarning(UserWarning):
    """What a merge did otherwise than one may expect, a sentence each."""


class Report:
    """The report of a merge of whole networks.

    Attributes
    ----------
    summary : str
        How many parameters were merged by which rule.
    warnings : list of str
        Sentences; each was also given to `warnings.warn` as a `MergeWarning`.
    data : dict or None
        All numbers on every parameter, as `catmerge merge --report F.json` writes them; None
        unless the merge was called with ``report=True``.
    """

    def __init__(self, summary, warnings, text):
        self.summary = plain(summary)
        self.warnings = [plain(sentence) for sentence in warnings]
        self._text = text
        self.data = None if text is None else json.loads(text)
        for sentence in self.warnings:
            _warnings.warn(sentence, MergeWarning, stacklevel=3)

    def __repr__(self):
        return f"<catmerge.Report: {self.summary}>"

    def __str__(self):
        return "\n".join([self.summary, *("warning: " + text for text in self.warnings)])

    def page(self):
        """The report as a page of HTML, as ``--report F.html`` writes it."""
        if self._text is None:
            raise _core.Error("the merge made no report: call it with report=True")
        return _core.page_of(self._text)

    def _repr_html_(self):
        if self._text is None:
            return f"<pre>{html.escape(str(self))}</pre>"
        page = html.escape(self.page(), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:40em;border:0"></iframe>'
