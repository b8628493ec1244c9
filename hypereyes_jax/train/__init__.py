"""The training loops: SFT, RL, pretraining of the miniature; question selection, distillation, samplers."""
