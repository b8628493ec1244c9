"""HTTP, URLs and JSON from outside."""
