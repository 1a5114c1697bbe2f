"""`diptych eval`: evaluate models with the standard protocols of their tasks, one file per task."""

from __future__ import annotations

from cyclopts import App

from diptych.cli.eval.caption import caption
from diptych.cli.eval.compositional import compositional
from diptych.cli.eval.match import match
from diptych.cli.eval.prompt import prompt
from diptych.cli.eval.retrieval import retrieval
from diptych.cli.eval.zeroshot import zeroshot

app = App(name="eval")
for command in (retrieval, zeroshot, match, compositional, caption, prompt):
    app.command(command)
