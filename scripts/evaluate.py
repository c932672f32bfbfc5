"""Scores of a trained run on labelled cases: `keras_meduda/commands/evaluate.py`."""

from keras_meduda.experiment.command_line import command

if __name__ == "__main__":
    command("evaluate")
