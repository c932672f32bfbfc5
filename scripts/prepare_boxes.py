"""Boxes around tumours, from masks: `keras_meduda/commands/boxes.py`."""

from keras_meduda.experiment.command_line import command

if __name__ == "__main__":
    command("boxes")
