"""Our two tools for other people's programs: an MCP server, TRL's GRPOTrainer, verifiers."""
