"""What a run leaves behind: its directory, its metrics file, its progress on the terminal, its memory."""
