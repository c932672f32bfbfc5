"""Evaluation: metrics, statistics, prediction, reports."""

from keras_meduda import modules_of

__getattr__ = modules_of(__name__)
