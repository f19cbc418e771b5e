"""Scores in a process of its own, as under `torchrun`: `python scoring_worker.py INPUT MODEL OUTPUT`; prints JSON."""

import json
import os
import sys

from bulk import score

if __name__ == "__main__":
    summary = score(*sys.argv[1:4])
    print(json.dumps(summary.to_dict() | {"rank": os.environ.get("RANK")}), flush=True)
