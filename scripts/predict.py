"""Masks of images: `keras_meduda/commands/predict.py`."""

from keras_meduda.experiment.command_line import command

if __name__ == "__main__":
    command("predict")
