"""For those who talk to the service: `Client` over HTTP, and the `gkd` command.

Not here: anything that decides about jobs. `cli.py` is also where a process is put together: `gkd serve`, `api`
and `worker` import the service when they are called, so that the other commands start quickly. No torch.

Read first: `client.py`, then `cli.py`; `run.py` runs the engine without the service, `demo.py` is `make demo`.
"""
