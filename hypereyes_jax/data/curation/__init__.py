"""The paper's curation as one file: pools, filters, rejection sampling, the SFT set, and the selection for RL."""
