"""Processes that share a rollout replica: who leads, the calls that its driver makes and its workers follow."""
