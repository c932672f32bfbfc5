"""Lesions in rodent brains: `keras_meduda/recipes/ratlesnet.py`."""

from keras_meduda.experiment.command_line import train

if __name__ == "__main__":
    train("ratlesnet")
