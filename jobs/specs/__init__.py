"""Job specs: their fields, their resolution against data and models, and error messages."""
