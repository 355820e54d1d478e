"""Distillation with global knowledge: prototypes (PGM), what is compared where, the losses (RDM)."""
