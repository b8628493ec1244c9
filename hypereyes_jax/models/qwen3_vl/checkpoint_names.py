"""Names of what a recomputed layer may keep: see `layers.rematerialised`."""

ATTENTION_OUT = "attention_out"
ATTENTION_NORMALISER = "attention_normaliser"
CHOSEN_EXPERTS = "chosen_experts"
