"""Tools that a model may call: the protocol, and those that come with the project."""
