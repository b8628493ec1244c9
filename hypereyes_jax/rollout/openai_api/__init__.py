"""An OpenAI-compatible server over our engine: chat completions of the bare policy, or of the searching agent."""
