"""Distillation with global knowledge: prototypes (PGM), the positions that are compared, the losses (RDM)."""
