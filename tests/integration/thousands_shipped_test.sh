#!/bin/sh
# The test of ten thousand requests (tests/stress/thousands_test.c) once more in small, with the
# shipped model instead of a toy.
QUERN_MODEL=models/quern-tldr.gguf QUERN_REQUESTS=500 exec "$BUILD/tests/stress/thousands_test"
