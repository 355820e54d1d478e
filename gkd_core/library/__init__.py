"""The public library: what `import gkd_core as gkd` offers to other programs.

A thin layer over the other packages. Errors are those of the service, `errors.SpecError` and `errors.DataError`, with
the field and a suggestion for misspelt names.
"""
