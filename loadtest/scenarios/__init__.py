"""The shapes of load: the stages of each scenario, and when the requests of an open loop are due."""
