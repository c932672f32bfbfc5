"""Soft masks of a teacher: `keras_meduda/commands/teach.py`."""

from keras_meduda.experiment.command_line import command

if __name__ == "__main__":
    command("teach")
