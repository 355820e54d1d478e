"""The client side: `Client` over HTTP, and the `gkd` command.

Not here: any decision about jobs. `serve.py` assembles the service for `gkd serve`, `api` and `worker`;
`cli.py` imports it only when one of these is called, so that other commands start quickly. No torch.

Read first: `client.py`, then `cli.py`; `run.py` runs the engine without the service, `demo.py` is `make demo`.
"""
