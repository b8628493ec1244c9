"""Processes that share a rollout replica: the leader's calls, the followers', and the messages between them."""
