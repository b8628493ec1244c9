"""Studies: lists of runs that share what is equal, and what their results say of the paper's claims."""
