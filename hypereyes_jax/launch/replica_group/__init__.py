"""Processes that share a rollout replica: the driver's calls, the workers', and the messages between them."""
