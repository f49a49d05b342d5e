"""What becomes of training: the parameters of a run, its record, tables of records, trained weights, exported files."""

from ranet_lib.runs import answers  # noqa: I001
from ranet_lib.runs.export import EXPORTS, export_model
from ranet_lib.runs.parameters import PARAMETERS, check_parameters, parameters_of, run_name
from ranet_lib.runs.pretrained import PRETRAINED, list_pretrained, load_pretrained, pretrained_record, save_pretrained
from ranet_lib.runs.record import (
    NoteEnvironment, book_folder, environment, make_record, read_record, read_records, validate_record, write_record,
)  # fmt: skip
from ranet_lib.runs.results import (
    PUBLISHED, error_interval, error_text, published_error, settings, settings_of, summary,
)  # fmt: skip
from ranet_lib.runs.statistics import detectable, finished, holm, lead_interval, mcnemar, paired

__all__ = [
    "EXPORTS", "NoteEnvironment", "PARAMETERS", "PRETRAINED", "PUBLISHED", "answers", "book_folder",
    "check_parameters", "detectable", "environment", "error_interval", "error_text", "export_model", "finished", "holm",
    "lead_interval", "list_pretrained", "load_pretrained", "make_record", "mcnemar", "paired", "parameters_of",
    "pretrained_record", "published_error", "read_record", "read_records", "run_name", "save_pretrained",
    "settings", "settings_of", "summary", "validate_record", "write_record"]  # fmt: skip
