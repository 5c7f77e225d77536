"""Load tests for Triton and any KServe v2 server: every answer checked, throughput and latency measured."""
