"""`python -m keras_meduda`: the command `meduda`."""

from keras_meduda.experiment.command_line import main

if __name__ == "__main__":
    main()
