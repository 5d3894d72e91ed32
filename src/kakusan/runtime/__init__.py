"""Runtime: models in other runtimes' formats, and the fastest way to run one on this machine."""
