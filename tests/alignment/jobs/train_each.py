"""Runs train jobs one after the other in the processes it was launched with: importing torch is the costly part.

`accelerate launch ... train_each.py JOBS.json`, a JSON list of the arguments of each.
"""

import json
import logging
import sys
from pathlib import Path

from alignment.jobs import train
from alignment.jobs.outcome import exit_code, parse_paths

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.exit(max(exit_code(train.main, parse_paths(arguments)) for arguments in jobs))
