"""Keys and values of the sequences that an engine works on: where they lie, and how programs read and write them."""
