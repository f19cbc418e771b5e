"""The command line `mirage-hf`.

A package of its own, because importing `mirage_hf` registers the models and so loads torch and transformers, which
takes seconds: here `--help` and usage errors need neither. Each command imports what it needs when it runs.
"""
