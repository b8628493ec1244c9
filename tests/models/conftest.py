"""Small models need no thread pool; one thread keeps the tests from fighting over cores."""

import torch

torch.set_num_threads(1)
