"""Rollout replicas: which devices each has, how weights reach it, which rollouts it plays."""
