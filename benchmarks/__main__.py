"""Run every benchmark."""

import sys

from benchmarks.train_speed import main

sys.exit(main())
