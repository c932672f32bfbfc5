"""AERUNet with KD-UDA: `keras_meduda/recipes/aerunet_kd.py`."""

from keras_meduda.experiment.command_line import train

if __name__ == "__main__":
    train("aerunet_kd")
