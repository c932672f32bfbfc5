"""Square regions around the optic disc: `keras_meduda/commands/rois.py`."""

from keras_meduda.experiment.command_line import command

if __name__ == "__main__":
    command("rois")
