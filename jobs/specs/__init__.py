"""What a person asks for: specs, whether they can be carried out, and what is wrong with them."""
