"""`python -m mirage_hf_cli`: the command line without the console script."""

from .main import app

app(prog_name="mirage-hf")
