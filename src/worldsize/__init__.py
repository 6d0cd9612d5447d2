"""worldsize tells you what each extra GPU buys you, and refuses to print a speedup that isn't one.

Four rings, imports pointing one way: describe (config, models, data, parallel.layout) → run (parallel, train,
launch) → measure → explain (study, scaling, report). `worldsize.records` holds what they hand to each other.
"""

__version__ = "0.1.0"
