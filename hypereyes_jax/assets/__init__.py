"""What ships with the package: the miniature base model and its teacher in Hugging Face layout, and example plans."""
