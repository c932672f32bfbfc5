"""What a run leaves for people: tables of its evaluation, and one page that shows them."""

from keras_meduda.evaluation.report.console import print_comparison, print_scores
from keras_meduda.evaluation.report.facts import about_run, about_session
from keras_meduda.evaluation.report.page import write_label_free_report, write_report
from keras_meduda.evaluation.report.pictures import outline
from keras_meduda.evaluation.report.tables import compare, score, write_evaluation

__all__ = [
    "about_run",
    "about_session",
    "compare",
    "outline",
    "print_comparison",
    "print_scores",
    "score",
    "write_evaluation",
    "write_label_free_report",
    "write_report",
]
