"""What measurements of the service share: real servers, and a client that costs less than what it measures."""
