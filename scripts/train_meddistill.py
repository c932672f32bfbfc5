"""MedDistill: `keras_meduda/recipes/meddistill.py`."""

from keras_meduda.experiment.command_line import train

if __name__ == "__main__":
    train("meddistill")
