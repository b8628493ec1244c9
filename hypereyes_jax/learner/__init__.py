"""The sharded training step: state, optimiser, packing, global batches, checkpoints, teacher scoring."""
