"""Find the configuration of a model that gives the most throughput under a latency limit, and write it back.

`measurement` says what is tried and what was measured. Everything is measured by load tests of the real server, in
which every answer is checked.
"""

from builder.tuning.measurement import BatchTimes, Bench, Configuration, Interval, Load, Measurement

__all__ = ["BatchTimes", "Bench", "Configuration", "Interval", "Load", "Measurement"]
