"""The front door: what `import gkd_core as gkd` offers to a program of one's own.

Thin: values with names that a person would guess, put together from the rooms below. Mistakes are told as the service
tells them, as `errors.SpecError` and `errors.DataError` with the field and what was probably meant.
"""
