"""Score any number of films on a machine or a cluster, with Ray Data. Not for medical use."""

from cxr.bulk.scoring import score_folder
from cxr.bulk.stores import BulkError

__all__ = ["BulkError", "score_folder"]
