"""Our tools and episodes for other people's programs: MCP clients, reset-and-step loops, and other RL trainers."""
