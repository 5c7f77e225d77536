"""Load tests for Triton and any other KServe v2 server: every answer checked, throughput and latency measured.

`locustfile` is where Locust starts. `options` declares the command line's options and `settings` reads them. `server`
asks the server what it serves, `checking` prepares the requests and their right answers, and `scenarios` says under
which loads to send them. `run` leads the processes through that and measures; each process sends its requests over
`wire`. `report` turns the measured windows into a verdict and writes the report.
"""

__all__: list[str] = []
