"""For those who talk to the service: `Client` over HTTP, and the `gkd` command.

Not here: anything that decides about jobs. `serve.py` is where the service is put together, for `gkd serve`,
`api` and `worker`; `cli.py` imports it when one of these is called, so that other commands start quickly. No torch.

Read first: `client.py`, then `cli.py`; `run.py` runs the engine without the service, `demo.py` is `make demo`.
"""
