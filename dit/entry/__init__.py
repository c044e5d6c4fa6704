"""The front door of every command: compose a config, check it, run the task, answer a user's mistake in one line."""

from dit.entry.command import main
from dit.entry.errors import Incomplete, explain, note, one_line_errors
from dit.entry.paths import CONFIGS, ROOT, options

__all__ = ["CONFIGS", "ROOT", "Incomplete", "explain", "main", "note", "one_line_errors", "options"]
