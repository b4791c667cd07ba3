#!/usr/bin/env python3
"""Streams an answer: ask.py [PROMPT]. Its module is client/python, for `pip install`."""
import sys

import quern

try:
    with quern.Service() as service:
        for piece in service.generate(sys.argv[1] if len(sys.argv) > 1 else "The mill by the river", max_tokens=16):
            print(piece, end="", flush=True)
        print()
except quern.Error as error:
    sys.exit(str(error))
