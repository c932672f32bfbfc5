"""A YOLO detector of tumours: `keras_meduda/commands/detect.py`."""

from keras_meduda.experiment.command_line import command

if __name__ == "__main__":
    command("detect")
