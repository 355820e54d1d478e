"""The routes, one module per resource. Each is thin: it calls one method of the store and returns the result."""
