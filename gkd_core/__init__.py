"""The engine: trains detectors, distils big ones into small ones, and measures what that gained.

A library that works alone. It knows no web, queue or database, and imports no other package of GKD. What goes in
is a `config.RunConfig`; what comes out is a stream of `events.Event` and the files of a `run_dir.RunDir`; these
and `errors` are the border, which the service imports and which needs no torch.

Read first: the border (`config`, `events`, `errors`, `run_dir`), `train.py` (the main flow),
`distill/distiller.py`, then the mathematics in `distill/`: `features.py`, `prototypes.py`, `losses/`, with
docs/method.md beside them.
"""
