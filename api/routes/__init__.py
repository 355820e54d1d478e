"""The routes, one module a noun. Each is thin: it calls one verb of the store and returns what that gives."""
