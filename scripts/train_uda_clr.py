"""UDA_CLR: `keras_meduda/recipes/uda_clr.py`."""

from keras_meduda.experiment.command_line import train

if __name__ == "__main__":
    train("uda_clr")
