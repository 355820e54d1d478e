"""Helpers of the measurements of the service: real servers, and a client that costs less than what it measures."""
