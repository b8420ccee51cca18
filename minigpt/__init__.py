"""minigpt: a lab bench for pretraining small GPTs. Importing it is cheap; torch comes with the
parts that need it.
"""

__version__ = "0.1.0"
