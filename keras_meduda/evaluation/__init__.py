"""Evaluation: metrics, statistics, prediction, reports."""
