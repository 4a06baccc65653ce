"""What a person looks at after a study: the page, the pictures, the table and the model card."""

from hansa_server.report.explanation import load_pictures
from hansa_server.report.model_card import model_card
from hansa_server.report.page import render
from hansa_server.report.partition_picture import draw_partition, partition_svg
from hansa_server.report.tables import metrics_csv

__all__ = ["draw_partition", "load_pictures", "metrics_csv", "model_card", "partition_svg", "render"]
