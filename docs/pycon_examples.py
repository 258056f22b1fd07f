"""Shows the `>>>` examples of docstrings as code."""

import re

import griffe

# From a prompt to the next empty line, as `doctest` reads it.
EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


class PyconExamples(griffe.Extension):
    """Puts fences around examples, which stand in docstrings without indentation."""

    def on_instance(self, *, obj, **_):
        if obj.docstring is not None:
            text = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
            obj.docstring.value = text
