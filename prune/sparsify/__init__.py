"""Sparse training: which channels the network can do without, learnt under a budget.

gradient_decay   beta, and the estimator that lets masked channels learn on (eq. of the paper)
masked           a channel group under one gate
sparsifier       learnt thresholds, the budget's augmented Lagrangian
cost             MACs as a function of the channels kept
selection        the final choice: budget met, widths that hardware likes
"""

from prune import make_callable

make_callable(__name__)
