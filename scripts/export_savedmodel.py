"""A trained run for serving: `keras_meduda/commands/export.py`."""

from keras_meduda.experiment.command_line import command

if __name__ == "__main__":
    command("export")
