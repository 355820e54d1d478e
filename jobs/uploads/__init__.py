"""Files from strangers: received, unpacked and checked in a process of their own, kept once on each machine."""
