"""The command line `mirage-hf`.

A package of its own: here `--help` and usage errors import neither PyTorch nor transformers, which takes seconds. Each
command imports what it needs when it runs.
"""
