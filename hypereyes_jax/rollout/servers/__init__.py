"""Generation servers (SGLang, vLLM) as samplers and as teachers."""
