"""Extension of mkdocs' API pages: docstrings here say `Example:`, griffe knows `Examples:`."""

import re

import griffe


class DocstringExamples(griffe.Extension):
    """Renames the section before docstrings are parsed, so that it is set as code."""

    def on_object(self, *, obj, **kwargs):
        """Called for every object with the docstring as it stands in the source."""
        if obj.docstring:
            obj.docstring.value = re.sub("(?m)^( *)Example:$", r"\1Examples:", obj.docstring.value)
