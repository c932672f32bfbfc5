"""OCT fluid segmentation by transfer learning: `keras_meduda/recipes/oct.py`."""

from keras_meduda.experiment.command_line import train

if __name__ == "__main__":
    train("oct")
