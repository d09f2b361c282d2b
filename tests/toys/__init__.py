"""Toy models, each one file written to the contract of `common.models.lifter.Lifter` and nothing else.

Tests put them into the registry, as a line of `common.models.MODELS` would, and run every command on them.
"""

# What --model calls a toy -> its module and class, as in common.models.MODELS.
TOYS = {
    'centre': 'toys.centre:CentreNet',
    'hypotheses': 'toys.hypotheses:Hypotheses',
    'lens': 'toys.lens:LensNet',
}
