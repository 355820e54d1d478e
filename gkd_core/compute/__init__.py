"""How the engine computes: several processes that hold the same bits, mixed precision, copies to a GPU."""
