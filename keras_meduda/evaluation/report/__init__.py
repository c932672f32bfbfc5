"""What a run leaves for people: tables of its evaluation, and one page that shows them."""

from keras_meduda.evaluation.report.console import print_comparison, print_scores
from keras_meduda.evaluation.report.facts import about_run, about_session
from keras_meduda.evaluation.report.page import write_label_free_report, write_report
from keras_meduda.evaluation.report.pictures import outline
from keras_meduda.evaluation.report.tables import compare, free_name, score, write_evaluation
from keras_meduda.evaluation.report.verdict import source_alarms

__all__ = [
    "about_run",
    "about_session",
    "compare",
    "free_name",
    "outline",
    "print_comparison",
    "print_scores",
    "score",
    "source_alarms",
    "write_evaluation",
    "write_label_free_report",
    "write_report",
]
