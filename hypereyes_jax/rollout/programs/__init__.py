"""What an engine runs on devices: reading chunks, writing tokens, drawing them, guessing them ahead. Jitted."""
