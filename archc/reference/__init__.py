"""What a program means: evaluated in NumPy, in double precision, slow and obviously right."""

from archc.reference.evaluate import Reference, State
from archc.reference.weights import initial_weights, random_weights

__all__ = ["Reference", "State", "initial_weights", "random_weights"]
