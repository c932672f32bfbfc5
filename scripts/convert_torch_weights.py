"""A PyTorch state dict as a file that these networks take: `keras_meduda/commands/convert.py`."""

from keras_meduda.experiment.command_line import command

if __name__ == "__main__":
    command("convert")
