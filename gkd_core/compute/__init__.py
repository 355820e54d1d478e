"""What a machine computes with: processes that hold the same bits, half precision, copies to a GPU."""
