"""What it takes to run on a cluster: initialisation, processes, replica groups, pod scripts."""
