"""The files of a run: journals, the result document, statistics, and the repair of a damaged folder."""
